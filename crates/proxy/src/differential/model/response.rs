//! Stored responses: what they say of themselves, and whether they may be stored.

use super::fields::{Directives, age, dated, directives, has, lines, members, seconds, targeted};
use super::{Came, Times, is, number};
use crate::differential::case::{Ask, Fields};

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) status: u16,
    /// Without `age`, and without what may not be reused.
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    age_s: u64,
    times: Times,
    /// Whether its request and itself had cookies; then no lifetime is guessed.
    with_cookies: bool,
    /// It has been found to be no longer what there is.
    pub(super) stale_since_ms: Option<u64>,
}

/// What a response says to this cache.
pub(super) struct Said {
    directives: Directives,
    is_targeted: bool,
    pub(super) no_cache: bool,
    pub(super) must_revalidate: bool,
    pub(super) has_s_maxage: bool,
    pub(super) while_revalidating_ms: i64,
    pub(super) if_error_ms: Option<i64>,
}

/// The fields that a directive names; none if it is about the whole response.
fn named(argument: Option<&String>) -> Option<Vec<String>> {
    let fields = vec![("x".to_owned(), argument?.clone().into_bytes())];
    let names = members(&fields, "x", true);
    let token = |name: &String| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let good = !names.is_empty() && names.iter().all(token);
    good.then(|| names.iter().map(|name| name.to_lowercase()).collect())
}

impl Said {
    fn of(fields: &Fields) -> Self {
        let aimed = targeted(fields);
        let is_targeted = aimed.is_some();
        let own = aimed.unwrap_or_else(|| directives(fields, "cache-control"));
        let whole = |wanted: &str| {
            own.iter().any(|(name, argument)| name == wanted && named(argument.as_ref()).is_none())
        };
        let no_cache = whole("no-cache");
        let ms = |seconds: u64| (seconds * 1000) as i64;
        Self {
            no_cache,
            must_revalidate: is(&own, "must-revalidate") || is(&own, "proxy-revalidate"),
            has_s_maxage: is(&own, "s-maxage"),
            while_revalidating_ms: ms(number(&own, "stale-while-revalidate").unwrap_or(0)),
            if_error_ms: number(&own, "stale-if-error").map(ms),
            directives: own,
            is_targeted,
        }
    }

    fn is(&self, name: &str) -> bool {
        is(&self.directives, name)
    }

    fn is_private(&self) -> bool {
        let mut own = self.directives.iter();
        own.any(|(name, argument)| name == "private" && named(argument.as_ref()).is_none())
    }

    fn hidden(&self) -> Vec<String> {
        let own =
            self.directives.iter().filter(|(name, _)| name == "private" || name == "no-cache");
        own.filter_map(|(_, argument)| named(argument.as_ref())).flatten().collect()
    }

    /// The first lifetime of several; one that can't be read is none (RFC 9111, section 4.2.1).
    fn lifetime_s(&self, name: &str) -> Option<u64> {
        let (_, argument) = self.directives.iter().find(|(own, _)| own == name)?;
        Some(argument.as_deref().and_then(seconds).unwrap_or(0))
    }
}

impl Stored {
    pub(super) fn of(came: &Came, times: Times, ask: &Ask) -> Self {
        let hidden = Said::of(&came.fields).hidden();
        let kept = |name: &String| name != "age" && !hidden.contains(name);
        Self {
            status: came.status,
            fields: came.fields.iter().filter(|(name, _)| kept(name)).cloned().collect(),
            body: came.body.clone(),
            age_s: age(&came.fields),
            times,
            with_cookies: has(&came.fields, "set-cookie") || has(&ask.fields, "cookie"),
            stale_since_ms: None,
        }
    }

    pub(super) fn said(&self) -> Said {
        Said::of(&self.fields)
    }

    /// RFC 9111, section 4.2.3, in milliseconds.
    pub(super) fn age_ms(&self, now_ms: u64) -> i64 {
        let (asked, received) = (self.times.0 as i64, self.times.1 as i64);
        let date = dated(&self.fields, "date").map_or(received / 1000, |date| date as i64);
        // A date has no milliseconds to compare.
        let apparent = (received / 1000 - date).max(0) * 1000;
        let corrected = self.age_s as i64 * 1000 + (received - asked);
        apparent.max(corrected) + (now_ms as i64 - received)
    }

    /// RFC 9111, section 4.2.1, in milliseconds.
    pub(super) fn lifetime_ms(&self) -> i64 {
        let known = self.stale_since_ms.map_or(i64::MAX, |since| self.age_ms(since));
        self.own_lifetime_ms().min(known)
    }

    fn own_lifetime_ms(&self) -> i64 {
        let said = self.said();
        let explicit = said.lifetime_s("s-maxage").or_else(|| said.lifetime_s("max-age"));
        if let Some(seconds) = explicit {
            return seconds as i64 * 1000;
        }
        let date_ms = dated(&self.fields, "date").map_or(self.times.1, |date| date * 1000) as i64;
        if has(&self.fields, "expires") && !said.is_targeted {
            let expires = dated(&self.fields, "expires").unwrap_or(0);
            return (expires as i64 * 1000 - date_ms).max(0);
        }
        if !self.may_guess(&said) {
            return 0;
        }
        let modified = dated(&self.fields, "last-modified");
        let since = modified.map_or(0, |modified| date_ms - modified as i64 * 1000).max(0);
        (since / 10).min(24 * 3600 * 1000)
    }

    /// Whether a lifetime may be guessed: a session's must not be shared by that.
    fn may_guess(&self, said: &Said) -> bool {
        let heuristic = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];
        (heuristic.contains(&self.status) || said.is("public")) && !self.with_cookies
    }

    /// RFC 9111, section 3. What could neither be used nor be asked for is not stored either.
    pub(super) fn may_be_stored(&self, ask: &Ask) -> bool {
        self.is_storable(ask)
            && (!has(&ask.fields, "authorization") || self.is_for_others())
            && vary(&self.fields).is_some()
    }

    /// Whether the request's credentials are what keeps it from being stored.
    pub(super) fn is_for_others_without(&self, ask: &Ask) -> bool {
        self.status_and_directives(ask) && !self.is_for_others()
    }

    fn is_for_others(&self) -> bool {
        let said = self.said();
        said.is("public") || said.is("must-revalidate") || said.has_s_maxage
    }

    fn status_and_directives(&self, ask: &Ask) -> bool {
        let said = self.said();
        let understood = [
            200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 421,
            451, 500, 501, 502, 503, 504,
        ];
        let must_understand = said.is("must-understand");
        let refused = [304, 206].contains(&self.status)
            || (must_understand && !understood.contains(&self.status))
            || (said.is("no-store") && !must_understand)
            || is(&directives(&ask.fields, "cache-control"), "no-store")
            || said.is_private();
        !refused
    }

    pub(super) fn has_explicit_lifetime(&self) -> bool {
        let said = self.said();
        let expires = has(&self.fields, "expires") && !said.is_targeted;
        said.is("max-age") || said.has_s_maxage || expires
    }

    fn is_storable(&self, ask: &Ask) -> bool {
        let said = self.said();
        let explicit = self.has_explicit_lifetime();
        let has_validator = has(&self.fields, "etag") || has(&self.fields, "last-modified");
        let of_use = explicit || self.lifetime_ms() > 0 || (self.may_guess(&said) && has_validator);
        self.status_and_directives(ask) && of_use
    }

    pub(super) fn validators(&self) -> Fields {
        let pairs = [("etag", "if-none-match"), ("last-modified", "if-modified-since")];
        let found = pairs.iter().filter_map(|(have, ask)| {
            let (_, value) = self.fields.iter().find(|(name, _)| name == have)?;
            Some(((*ask).to_owned(), value.clone()))
        });
        found.collect()
    }

    /// After a 304 (RFC 9111, section 3.2).
    pub(super) fn confirmed(&self, fields: &Fields, times: Times, ask: &Ask) -> Self {
        let of_the_body = ["content-encoding", "content-length", "content-range", "etag"];
        let new = |name: &String| !of_the_body.contains(&name.as_str()) && name != "age";
        let new: Fields = fields.iter().filter(|(name, _)| new(name)).cloned().collect();
        let mut merged: Fields =
            self.fields.iter().filter(|(name, _)| !has(&new, name)).cloned().collect();
        merged.extend(new);
        let hidden = Said::of(&merged).hidden();
        merged.retain(|(name, _)| !hidden.contains(name));
        let with_cookies = has(&merged, "set-cookie") || has(&ask.fields, "cookie");
        let age_s = age(fields);
        let stale_since_ms = None;
        Self { fields: merged, age_s, times, with_cookies, stale_since_ms, ..self.clone() }
    }
}

/// The fields of the request that a response depends on, sorted; none if it depends on more
/// (RFC 9111, section 4.1).
pub(super) fn vary(fields: &Fields) -> Option<Vec<String>> {
    let all = fields.iter().filter(|(name, _)| name == "vary").count();
    if lines(fields, "vary").len() < all {
        return None;
    }
    let mut names = Vec::new();
    for name in members(fields, "vary", true) {
        let token = name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
        if !token {
            return None;
        }
        names.push(name.to_lowercase());
    }
    names.sort();
    names.dedup();
    Some(names)
}

/// The values that choose a variant, as they are compared.
pub(super) fn selected(names: &[String], fields: &Fields) -> Vec<Option<String>> {
    let value = |name: &String| {
        let all: Vec<_> = fields.iter().filter(|(own, _)| own == name).collect();
        if all.is_empty() {
            return None;
        }
        let as_they_are = ["cookie", "authorization", "user-agent"].contains(&name.as_str());
        if as_they_are || lines(fields, name).len() < all.len() {
            let lines = all.iter().map(|(_, value)| value.escape_ascii().to_string());
            return Some(lines.collect::<Vec<_>>().join("\n"));
        }
        let joined = members(fields, name, true).join(",");
        Some(match name.as_str() {
            "accept-language" | "accept-encoding" => joined.to_lowercase().replace(' ', ""),
            _ => joined,
        })
    };
    names.iter().map(value).collect()
}
