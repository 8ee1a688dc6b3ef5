//! How old a response is, and for how long it is fresh (RFC 9111, section 4.2).

use http::HeaderMap;

use super::Policy;
use crate::fields::control::ResponseControl;
use crate::fields::{self, MAX_DELTA};

/// When a response was asked for, and when its head came: milliseconds since 1970, by a clock that
/// does not jump.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Just before the request was sent.
    pub asked_ms: u64,
    /// When the head had come.
    pub received_ms: u64,
}

/// What a stored response says about the time that it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// When its age was zero, in milliseconds since 1970.
    pub(crate) born_ms: i64,
    /// Age up to which it is fresh.
    pub(crate) lifetime_ms: i64,
    /// How long after that it may be used while it is asked for anew.
    pub(crate) stale_while_revalidate_ms: i64,
    /// How long after that it may be used if asking fails; none: it does not say.
    pub(crate) stale_if_error_ms: Option<i64>,
    /// It may not be used without asking.
    pub(crate) must_ask: bool,
    /// Stale, it may not be used without asking.
    pub(crate) never_stale: bool,
    /// Stale, it may not be used without asking unless it has said otherwise itself: `s-maxage`.
    pub(crate) not_stale_unasked: bool,
}

impl Freshness {
    pub(crate) fn of(
        policy: &Policy,
        control: &ResponseControl,
        targeted: bool,
        headers: &HeaderMap,
        times: Times,
        may_guess: bool,
    ) -> Self {
        let received = signed(times.received_ms);
        let date = fields::date(headers).map_or(received, signed);
        // Dates have whole seconds; the rest of one must not count as age.
        let apparent = (received / 1000 - date / 1000).max(0) * 1000;
        let delay = received.saturating_sub(signed(times.asked_ms)).max(0);
        let said = seconds(fields::age(headers).unwrap_or(0));
        let age = apparent.max(said.saturating_add(delay));
        let lifetime = lifetime(control, targeted, headers, date)
            .or_else(|| may_guess.then(|| guess(policy, headers, date)))
            .unwrap_or(0);
        Self {
            born_ms: received.saturating_sub(age),
            lifetime_ms: lifetime,
            stale_while_revalidate_ms: seconds(control.stale_while_revalidate.unwrap_or(0)),
            stale_if_error_ms: control.stale_if_error.map(seconds),
            must_ask: control.no_cache,
            never_stale: control.no_cache || control.must_revalidate || control.proxy_revalidate,
            not_stale_unasked: control.s_maxage.is_some(),
        }
    }

    /// Its age in milliseconds (RFC 9111, section 4.2.3).
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        signed(now_ms).saturating_sub(self.born_ms).max(0).unsigned_abs()
    }

    /// What stands in `age`.
    pub fn age_s(&self, now_ms: u64) -> u64 {
        self.age_ms(now_ms) / 1000
    }

    /// Milliseconds that it is still fresh; negative once it is stale.
    pub fn remaining_ms(&self, now_ms: u64) -> i64 {
        self.lifetime_ms.saturating_sub(signed(self.age_ms(now_ms)))
    }

    /// Whether it is of no use unless somebody says that it is still good.
    pub fn must_ask(&self) -> bool {
        self.must_ask
    }

    /// When it stops being fresh, in milliseconds since 1970; zero if it must be asked for always.
    pub fn fresh_until_ms(&self) -> u64 {
        if self.must_ask {
            return 0;
        }
        self.born_ms.saturating_add(self.lifetime_ms).max(0).unsigned_abs()
    }

    /// Makes it stale from now on.
    pub fn expire(&mut self, now_ms: u64) {
        self.lifetime_ms = self.lifetime_ms.min(signed(self.age_ms(now_ms)));
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn seconds(seconds: u64) -> i64 {
    signed(seconds.min(MAX_DELTA) * 1000)
}

/// The lifetime that the response gives itself (RFC 9111, section 4.2.1).
fn lifetime(
    control: &ResponseControl,
    targeted: bool,
    headers: &HeaderMap,
    date: i64,
) -> Option<i64> {
    if let Some(said) = control.s_maxage.or(control.max_age) {
        return Some(seconds(said));
    }
    if targeted {
        return None;
    }
    fields::expires(headers).map(|expires| signed(expires).saturating_sub(date).max(0))
}

fn guess(policy: &Policy, headers: &HeaderMap, date: i64) -> i64 {
    let Some(modified) = fields::last_modified(headers) else { return 0 };
    let since = date.saturating_sub(signed(modified)).max(0);
    let part = since.saturating_mul(i64::from(policy.heuristic_percent)) / 100;
    part.min(i64::try_from(policy.heuristic_max.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};

    use super::*;

    /// A second into the epoch's second billion.
    const NOW: u64 = 1_000_000_000_000;

    fn fresh(lines: &[(http::HeaderName, String)], received_ms: u64) -> Freshness {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        let control = ResponseControl::of(&headers);
        let times = Times { asked_ms: NOW, received_ms };
        Freshness::of(&Policy::default(), &control, false, &headers, times, true)
    }

    #[test]
    fn age_is_the_larger_of_two_estimates() {
        let date = |ms| (DATE, fields::http_date(ms));
        let age = |text: &str| (AGE, text.to_owned());
        for (lines, received, expected) in [
            (vec![], NOW, 0),
            (vec![date(NOW)], NOW + 999, 999),
            (vec![date(NOW - 5000)], NOW, 5000),
            (vec![date(NOW + 5000)], NOW, 0),
            (vec![age("30")], NOW, 30_000),
            (vec![age("30"), date(NOW - 5000)], NOW + 2000, 32_000),
            (vec![age("99999999999")], NOW, 2_147_483_648_000),
        ] {
            assert_eq!(fresh(&lines, received).age_ms(received), expected, "{lines:?}");
        }
        assert_eq!(fresh(&[age("30")], NOW).age_s(NOW + 3500), 33);
    }

    #[test]
    fn lifetimes_come_in_order() {
        let control = |text: &str| (http::header::CACHE_CONTROL, text.to_owned());
        let expires = |ms| (EXPIRES, fields::http_date(ms));
        let modified = |ms| (LAST_MODIFIED, fields::http_date(ms));
        let date = (DATE, fields::http_date(NOW));
        for (lines, expected) in [
            (vec![control("max-age=5, s-maxage=7"), expires(NOW + 60_000)], 7000),
            (vec![control("max-age=5"), expires(NOW + 60_000)], 5000),
            (vec![expires(NOW + 60_000), date.clone()], 60_000),
            (vec![expires(NOW - 60_000), date.clone(), modified(NOW - 100_000)], 0),
            (vec![(EXPIRES, "0".into()), date.clone()], 0),
            (vec![date.clone(), modified(NOW - 100_000)], 10_000),
            (vec![date.clone(), modified(0)], 24 * 3_600_000),
            (vec![date.clone()], 0),
        ] {
            assert_eq!(fresh(&lines, NOW).lifetime_ms, expected, "{lines:?}");
        }
    }

    #[test]
    fn freshness_runs_out() {
        let control = (http::header::CACHE_CONTROL, "max-age=5".to_owned());
        let mut freshness = fresh(&[control], NOW);
        assert_eq!(freshness.fresh_until_ms(), NOW + 5000);
        assert_eq!(freshness.remaining_ms(NOW + 6000), -1000);
        freshness.expire(NOW + 1000);
        assert_eq!(freshness.remaining_ms(NOW + 1000), 0);
    }
}
