//! `cache-status` (RFC 9211): what the cache did with a request.

use std::fmt;

use http::{HeaderName, HeaderValue, StatusCode};

/// The field's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request was forwarded (RFC 9211, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache was not to be used for it.
    Bypass,
    /// Its method has no stored responses.
    Method,
    /// Nothing was stored for what it asks.
    UriMiss,
    /// Nothing stored for what it asks was for a request such as this.
    VaryMiss,
    /// What is stored is stale.
    Stale,
    /// What is stored would do, but the request wanted it anew.
    Request,
}

impl Forwarded {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// A stored response answered; with the milliseconds that it is still fresh.
    Hit {
        /// Negative for a stale one.
        remaining_ms: i64,
    },
    /// The request was forwarded.
    Forwarded {
        /// Why.
        reason: Forwarded,
        /// What was answered, where the client gets something else.
        status: Option<StatusCode>,
        /// The response is stored.
        stored: bool,
        /// Another request for the same was forwarded, and its response shared.
        collapsed: bool,
        /// Why it is not stored.
        detail: Option<&'static str>,
    },
}

impl CacheStatus {
    /// Forwarded for this reason, and nothing more to say.
    pub fn forwarded(reason: Forwarded) -> Self {
        Self::Forwarded { reason, status: None, stored: false, collapsed: false, detail: None }
    }

    /// The field's value, with `name` as this cache's.
    pub fn value(&self, name: &str) -> Option<HeaderValue> {
        // Every answer has one of these, and most the first two.
        let text = match self {
            Self::Hit { remaining_ms } => {
                [name, "; hit; ttl=", &remaining_ms.div_euclid(1000).to_string()].concat()
            }
            Self::Forwarded {
                reason,
                status: None,
                stored: false,
                collapsed: false,
                detail: None,
            } => [name, "; fwd=", reason.as_str()].concat(),
            Self::Forwarded { .. } => format!("{name}{self}"),
        };
        HeaderValue::try_from(text).ok()
    }

    /// One word for records: `hit`, `stale`, `revalidated`, `collapsed`, `miss` or `pass`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Hit { remaining_ms } if *remaining_ms > 0 => "hit",
            Self::Hit { .. } => "stale",
            Self::Forwarded { status: Some(StatusCode::NOT_MODIFIED), .. } => "revalidated",
            Self::Forwarded { status: Some(_), .. } => "stale",
            Self::Forwarded { collapsed: true, .. } => "collapsed",
            Self::Forwarded { reason: Forwarded::Bypass | Forwarded::Method, .. } => "pass",
            Self::Forwarded { .. } => "miss",
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit { remaining_ms } => write!(f, "; hit; ttl={}", remaining_ms.div_euclid(1000)),
            Self::Forwarded { reason, status, stored, collapsed, detail } => {
                write!(f, "; fwd={}", reason.as_str())?;
                if let Some(status) = status {
                    write!(f, "; fwd-status={}", status.as_u16())?;
                }
                if *stored {
                    f.write_str("; stored")?;
                }
                if *collapsed {
                    f.write_str("; collapsed")?;
                }
                detail.map_or(Ok(()), |detail| write!(f, "; detail={detail}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_in_words() {
        let value =
            |status: CacheStatus| status.value("selvedge").unwrap().to_str().unwrap().to_owned();
        assert_eq!(value(CacheStatus::Hit { remaining_ms: 5999 }), "selvedge; hit; ttl=5");
        assert_eq!(value(CacheStatus::Hit { remaining_ms: -1 }), "selvedge; hit; ttl=-1");
        let status = CacheStatus::Forwarded {
            reason: Forwarded::Stale,
            status: Some(StatusCode::NOT_MODIFIED),
            stored: true,
            collapsed: true,
            detail: None,
        };
        assert_eq!(value(status), "selvedge; fwd=stale; fwd-status=304; stored; collapsed");
        assert_eq!(value(CacheStatus::forwarded(Forwarded::Bypass)), "selvedge; fwd=bypass");
    }
}
