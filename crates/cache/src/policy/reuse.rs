//! When a stored response may answer (RFC 9111, section 4; RFC 5861).

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

use super::{Freshness, Policy};
use crate::fields::control::RequestControl;

/// What to do with a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It answers.
    Fresh,
    /// It answers, and is asked for anew behind that.
    WhileAsking,
    /// It has to be asked for first, since it is stale.
    Stale,
    /// It has to be asked for first, since the request says so.
    Asked,
}

/// Why nobody could say whether a stored response is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered.
    Unreachable,
    /// The answer was an error of the server (500, 502, 503 or 504).
    Status,
}

/// What a request asks of the cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    control: RequestControl,
}

impl Wish {
    /// Reads a request's `cache-control` and `pragma`.
    pub fn of(headers: &HeaderMap) -> Self {
        // Most requests have neither.
        if !headers.contains_key(CACHE_CONTROL) && !headers.contains_key(PRAGMA) {
            return Self::default();
        }
        Self { control: RequestControl::of(headers) }
    }

    /// Whether the client wants no answer but a stored one (RFC 9111, section 5.2.1.7).
    pub fn only_if_cached(&self) -> bool {
        self.control.only_if_cached
    }

    /// Whether what the client gets is not to be stored (RFC 9111, section 5.2.1.5).
    pub fn no_store(&self) -> bool {
        self.control.no_store
    }

    /// Decides whether a stored response answers.
    pub fn reuse(&self, freshness: &Freshness, now_ms: u64) -> Reuse {
        let Self { control } = self;
        if control.no_cache {
            return Reuse::Asked;
        }
        if freshness.must_ask {
            return Reuse::Stale;
        }
        let remaining = freshness.remaining_ms(now_ms);
        if control.max_age.is_some_and(|most| freshness.age_ms(now_ms) >= most.saturating_mul(1000))
        {
            return Reuse::Asked;
        }
        if control.min_fresh.is_some_and(|least| remaining < milliseconds(least)) {
            return Reuse::Asked;
        }
        if remaining > 0 {
            return Reuse::Fresh;
        }
        // Who states an age wants nothing stale, unless it says so (RFC 9111, section 5.2.1.1).
        if control.max_age.is_some() && control.max_stale.is_none() {
            return Reuse::Asked;
        }
        if freshness.never_stale {
            return Reuse::Stale;
        }
        let stale = remaining.saturating_neg();
        if stale < freshness.stale_while_revalidate_ms {
            return Reuse::WhileAsking;
        }
        match control.max_stale {
            Some(most) if stale <= milliseconds(most) && !freshness.not_stale_unasked => {
                Reuse::Fresh
            }
            _ => Reuse::Stale,
        }
    }

    /// Whether a stored response answers although it had to be asked for, since asking failed.
    pub fn reuse_on_failure(
        &self,
        policy: &Policy,
        freshness: &Freshness,
        failure: Failure,
        now_ms: u64,
    ) -> bool {
        let remaining = freshness.remaining_ms(now_ms);
        if freshness.must_ask || (remaining <= 0 && freshness.never_stale) {
            return false;
        }
        let asked = self.control.stale_if_error.map(milliseconds);
        let allowed = match (freshness.stale_if_error_ms.max(asked), failure) {
            (Some(said), _) => said,
            (None, Failure::Unreachable) if !freshness.not_stale_unasked => {
                i64::try_from(policy.stale_if_unreachable.as_millis()).unwrap_or(i64::MAX)
            }
            (None, _) => 0,
        };
        remaining.saturating_neg() < allowed
    }
}

fn milliseconds(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::fields::control::ResponseControl;
    use crate::policy::Times;

    const NOW: u64 = 1_000_000_000_000;

    fn control(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::try_from(text).unwrap())])
    }

    fn stored(text: &str) -> Freshness {
        let headers = control(text);
        let times = Times { asked_ms: NOW, received_ms: NOW };
        let control = ResponseControl::of(&headers);
        Freshness::of(&Policy::default(), &control, false, &headers, times, false)
    }

    #[test]
    fn who_answers() {
        for (response, request, age_s, expected) in [
            ("max-age=10", "", 9, Reuse::Fresh),
            ("max-age=10", "", 10, Reuse::Stale),
            ("max-age=10, no-cache", "", 1, Reuse::Stale),
            ("max-age=10", "no-cache", 1, Reuse::Asked),
            ("max-age=10", "max-age=5", 4, Reuse::Fresh),
            ("max-age=10", "max-age=5", 5, Reuse::Asked),
            ("max-age=10", "max-age=0", 0, Reuse::Asked),
            ("max-age=10", "min-fresh=5", 5, Reuse::Fresh),
            ("max-age=10", "min-fresh=6", 5, Reuse::Asked),
            ("max-age=10", "max-stale", 1000, Reuse::Fresh),
            ("max-age=10", "max-stale=5", 15, Reuse::Fresh),
            ("max-age=10", "max-stale=5", 16, Reuse::Stale),
            ("max-age=10, must-revalidate", "max-stale", 11, Reuse::Stale),
            ("s-maxage=10", "max-stale", 11, Reuse::Stale),
            ("max-age=10, stale-while-revalidate=5", "", 14, Reuse::WhileAsking),
            ("max-age=10, stale-while-revalidate=5", "", 15, Reuse::Stale),
            ("s-maxage=10, stale-while-revalidate=5", "", 14, Reuse::WhileAsking),
            ("max-age=10, stale-while-revalidate=5, must-revalidate", "", 11, Reuse::Stale),
        ] {
            let headers = if request.is_empty() { HeaderMap::new() } else { control(request) };
            let reuse = Wish::of(&headers).reuse(&stored(response), NOW + age_s * 1000);
            assert_eq!(reuse, expected, "{response} {request} {age_s}");
        }
    }

    #[test]
    fn who_answers_when_asking_fails() {
        use Failure::*;
        let day = 86_400;
        for (response, request, age_s, failure, expected) in [
            ("max-age=10", "", 11, Unreachable, true),
            ("max-age=10", "", 11, Status, false),
            ("max-age=10", "", day + 9, Unreachable, true),
            ("max-age=10", "", day + 10, Unreachable, false),
            ("max-age=10, stale-if-error=5", "", 14, Status, true),
            ("max-age=10, stale-if-error=5", "", 15, Status, false),
            ("max-age=10, stale-if-error=5", "", 15, Unreachable, false),
            ("max-age=10", "stale-if-error=5", 14, Status, true),
            ("max-age=10, must-revalidate", "", 11, Unreachable, false),
            ("max-age=10, proxy-revalidate", "", 11, Unreachable, false),
            ("max-age=10, no-cache", "", 1, Unreachable, false),
            ("s-maxage=10", "", 11, Unreachable, false),
            ("s-maxage=10, stale-if-error=5", "", 11, Unreachable, true),
        ] {
            let headers = if request.is_empty() { HeaderMap::new() } else { control(request) };
            let (wish, now) = (Wish::of(&headers), NOW + age_s * 1000);
            let reuse = wish.reuse_on_failure(&Policy::default(), &stored(response), failure, now);
            assert_eq!(reuse, expected, "{response} {request} {age_s} {failure:?}");
        }
    }
}
