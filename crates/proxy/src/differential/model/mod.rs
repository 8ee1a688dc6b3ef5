//! A cache as RFC 9111 describes it, with what the engine chooses where it leaves a choice
//! (docs/decisions/0020). Nothing is shared with the engine but the vocabulary of the cases.

mod answer;
mod fields;
mod response;

use std::collections::HashMap;

use super::case::{Answer, Ask, Fields, Kind, Reply, SENT, Seen, Sent, shown};
use answer::{Form, formed};
use fields::{Directives, directives, first, has, members, seconds, strings};
use response::{Stored, selected, vary};

/// How long it is remembered that a response was for one client, in milliseconds.
const PASS_MS: u64 = 10_000;
/// How long what is stale is used when nobody can be asked.
const UNREACHABLE_MS: i64 = 24 * 3600 * 1000;

/// What is known of a URL, or of one of its variants.
enum Slot {
    One(Box<Stored>),
    /// Responses are not shared, until then.
    Pass(u64),
    /// It depends on these fields of the request.
    Varies(Vec<String>, HashMap<Vec<Option<String>>, Slot>),
}

#[derive(Default)]
pub(super) struct Model {
    urls: HashMap<(String, String), Slot>,
}

/// Times of a request to the origin, in milliseconds: when it was sent, and when it was answered.
type Times = (u64, u64);

enum Found {
    Hit { stale: bool },
    Ask { stored: bool, reason: &'static str },
    Pass,
}

fn fault(status: u16) -> Answer {
    Answer { status, cache: None, fields: Vec::new(), body: None }
}

/// Whether nothing can be made of what comes.
fn fails(reply: &Reply) -> bool {
    matches!(reply.kind, Kind::HangUp | Kind::Garbage | Kind::Unreachable)
}

/// What comes, as the origin answers a request with these fields.
struct Came {
    status: u16,
    fields: Fields,
    /// What comes of it.
    body: Vec<u8>,
    is_whole: bool,
    /// How long the head says that the body is.
    size: Option<usize>,
    /// The same, also where there is none because of the method.
    announced: Option<usize>,
}

impl Came {
    fn of(reply: &Reply, sent: &Fields, is_head: bool) -> Self {
        let conditional = has(sent, "if-none-match") || has(sent, "if-modified-since");
        let confirm = reply.confirm.as_ref().filter(|_| conditional);
        let (status, fields) = match confirm {
            Some(fields) => (304, fields),
            None => (reply.status, &reply.fields),
        };
        let bodiless = is_head || [204, 304].contains(&status);
        let is_whole = bodiless || reply.kind != Kind::Cut;
        let body = match is_whole {
            _ if bodiless => &[],
            true => &reply.body[..],
            false => &reply.body[..reply.body.len() / 2],
        };
        let hop: Vec<String> = members(fields, "connection", true);
        let own = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
        let kept = fields.iter().filter(|(name, _)| {
            !own.contains(&name.as_str()) && !hop.iter().any(|it| it.eq_ignore_ascii_case(name))
        });
        let size = (!reply.chunked).then_some(if bodiless { 0 } else { reply.body.len() });
        let announced = size.and(Some(reply.body.len())).filter(|_| ![204, 304].contains(&status));
        let (fields, body) = (kept.cloned().collect(), body.to_vec());
        Self { status, fields, body, is_whole, size, announced }
    }

    /// Responses get a date by who receives them (RFC 9110, section 6.6.1).
    fn dated(mut self, received_ms: u64) -> Self {
        if !has(&self.fields, "date") {
            let at = std::time::Duration::from_secs(received_ms / 1000);
            let text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + at);
            self.fields.push(("date".to_owned(), text.into_bytes()));
        }
        self
    }

    fn answer(&self, cache: String) -> Answer {
        let body = self.is_whole.then(|| self.body.escape_ascii().to_string());
        Answer {
            status: self.status,
            cache: Some(cache),
            fields: shown(&self.fields, |_| true),
            body,
        }
    }
}

impl Model {
    /// What is to be seen of an exchange, and what is stored after it.
    pub(super) fn step(
        &mut self,
        ask: &Ask,
        reply: &Reply,
        began_ms: u64,
        times: &[Times],
    ) -> Seen {
        if ask.broken.is_some() {
            return Seen { sent: Vec::new(), answer: None };
        }
        let times = times.first().copied().unwrap_or((began_ms, began_ms));
        let wish = Wish::of(&ask.fields);
        let is_read = ["GET", "HEAD"].contains(&ask.method.as_str());
        let is_looked_up = is_read
            && ask.body.is_empty()
            && !has(&ask.fields, "if-match")
            && !has(&ask.fields, "if-unmodified-since");
        let found = match is_looked_up {
            true => self.find(ask, &wish, began_ms),
            false => Found::Ask { stored: false, reason: "method" },
        };
        if let Found::Hit { stale } = found {
            return self.hit(ask, &wish, reply, began_ms, times, stale);
        }
        if wish.only_if_cached && is_read {
            return Seen { sent: Vec::new(), answer: Some(fault(504)) };
        }
        match found {
            Found::Ask { stored, reason } if is_looked_up && ask.method == "GET" => {
                match !stored && is_far(&ask.fields) {
                    true => self.pass(ask, reply, "bypass"),
                    false => self.fetch(ask, &wish, reply, times, reason),
                }
            }
            Found::Ask { stored, .. } if is_looked_up && !stored && is_far(&ask.fields) => {
                self.pass(ask, reply, "bypass")
            }
            Found::Ask { reason, .. } => self.pass_and_learn(ask, reply, reason, times),
            _ => self.pass(ask, reply, "bypass"),
        }
    }

    fn slot(&self, ask: &Ask) -> (Option<&Slot>, &'static str) {
        match self.urls.get(&url(ask)) {
            Some(Slot::Varies(names, slots)) => {
                (slots.get(&selected(names, &ask.fields)), "vary-miss")
            }
            slot => (slot, "uri-miss"),
        }
    }

    fn stored(&self, ask: &Ask) -> Option<&Stored> {
        match self.slot(ask).0 {
            Some(Slot::One(stored)) => Some(stored),
            _ => None,
        }
    }

    fn find(&self, ask: &Ask, wish: &Wish, now_ms: u64) -> Found {
        let (slot, miss) = self.slot(ask);
        match slot {
            Some(Slot::One(stored)) => match may_use(stored, wish, now_ms) {
                Use::Fresh => Found::Hit { stale: false },
                Use::WhileAsking => Found::Hit { stale: true },
                Use::No(reason) => Found::Ask { stored: true, reason },
            },
            Some(Slot::Pass(until)) if now_ms < *until => Found::Pass,
            _ => Found::Ask { stored: false, reason: miss },
        }
    }

    fn hit(
        &mut self,
        ask: &Ask,
        wish: &Wish,
        reply: &Reply,
        began_ms: u64,
        times: Times,
        stale: bool,
    ) -> Seen {
        let Some(stored) = self.stored(ask) else { return Seen { sent: Vec::new(), answer: None } };
        let answer = stored.answer(ask, began_ms, "hit");
        let mut sent = Vec::new();
        if stale && ask.method == "GET" {
            sent = self.fetch(ask, wish, reply, times, "stale").sent;
        }
        Seen { sent, answer: Some(answer) }
    }

    /// Sent as it is, for who asked alone.
    fn pass(&mut self, ask: &Ask, reply: &Reply, reason: &str) -> Seen {
        let sent = reached(reply, sent(ask, &ask.fields));
        if fails(reply) {
            return Seen { sent, answer: Some(fault(502)) };
        }
        let came = Came::of(reply, &ask.fields, ask.method == "HEAD");
        let safe = ["GET", "HEAD", "OPTIONS", "TRACE"].contains(&ask.method.as_str());
        if !safe && (200..400).contains(&came.status) {
            self.changed(ask, &came.fields);
            self.invalidate_groups(&ask.host.to_lowercase(), &came.fields);
        }
        Seen { sent, answer: Some(came.answer(format!("fwd={reason}"))) }
    }

    fn pass_and_learn(&mut self, ask: &Ask, reply: &Reply, reason: &str, times: Times) -> Seen {
        let mut seen = self.pass(ask, reply, reason);
        if fails(reply) {
            return seen;
        }
        let came = Came::of(reply, &ask.fields, ask.method == "HEAD");
        match ask.method.as_str() {
            "HEAD" if reason != "method" => self.learn_by_head(ask, came.dated(times.1), times),
            "POST" => {
                let came = came.dated(times.1);
                if self.learn_by_post(ask, &came, times) {
                    seen.answer = Some(came.answer(format!("fwd={reason}; stored")));
                }
            }
            _ => {}
        }
        seen
    }

    /// RFC 9111, section 4.3.5.
    fn learn_by_head(&mut self, ask: &Ask, came: Came, times: Times) {
        let Some(stored) = self.stored(ask).cloned() else { return };
        let get = Ask { method: "GET".to_owned(), ..ask.clone() };
        let may = Stored::of(&came, times, &get).may_be_stored(&get);
        if came.status != 200 || stored.status != 200 || !may {
            return;
        }
        let value = |fields: &Fields, name| first_bytes(fields, name).map(<[u8]>::to_vec);
        let of_both = ["etag", "last-modified"].iter().all(|name| {
            let new = value(&came.fields, name);
            new.is_none() || new == value(&stored.fields, name)
        });
        if !of_both || came.announced.is_some_and(|length| length != stored.body.len()) {
            let mut stored = stored;
            stored.stale_since_ms = Some(times.1);
            return self.remember(ask, Slot::One(Box::new(stored)));
        }
        let fresh = stored.confirmed(&came.fields, times, &get);
        match fresh.may_be_stored(&get) {
            true => self.store(ask, fresh),
            false => self.forget(ask),
        }
    }

    /// RFC 9110, section 9.3.3.
    fn learn_by_post(&mut self, ask: &Ask, came: &Came, times: Times) -> bool {
        let location = first(&came.fields, "content-location");
        let target = location.and_then(|reference| answer::resolve(ask, reference));
        let conditional =
            has(&ask.fields, "if-none-match") || has(&ask.fields, "if-modified-since");
        let new = Stored::of(came, times, ask);
        let same = target.as_ref() == Some(&ask.target) && !conditional;
        if !same || !new.has_explicit_lifetime() || !new.may_be_stored(ask) {
            return false;
        }
        match came.is_whole {
            true => self.store(ask, new),
            false => self.vary_on(ask, vary(&new.fields).unwrap_or_default()),
        }
        // What a response names invalid is all that was asked for before it came, and so itself too.
        if (200..400).contains(&came.status) {
            self.invalidate_groups(&ask.host.to_lowercase(), &came.fields);
        }
        true
    }

    /// RFC 9111, section 4.4.
    fn changed(&mut self, ask: &Ask, fields: &Fields) {
        self.urls.remove(&url(ask));
        for name in ["location", "content-location"] {
            let target = first(fields, name).and_then(|reference| answer::resolve(ask, reference));
            if let Some(target) = target {
                self.urls.remove(&(ask.host.to_lowercase(), target));
            }
        }
    }

    /// RFC 9875, section 3.
    fn invalidate_groups(&mut self, host: &str, fields: &Fields) {
        let named = strings(fields, "cache-group-invalidation");
        let is_in = |slot: &Slot| match slot {
            Slot::One(stored) => {
                strings(&stored.fields, "cache-groups").iter().any(|group| named.contains(group))
            }
            _ => false,
        };
        let of_host = |(own, _): &(String, String)| own == host;
        self.urls.retain(|url, slot| !(of_host(url) && is_in(slot)));
        for (_, slot) in self.urls.iter_mut().filter(|(url, _)| of_host(url)) {
            if let Slot::Varies(_, slots) = slot {
                slots.retain(|_, slot| !is_in(slot));
            }
        }
    }

    /// Sent for the cache.
    fn fetch(&mut self, ask: &Ask, wish: &Wish, reply: &Reply, times: Times, reason: &str) -> Seen {
        let stored = self.stored(ask).cloned();
        let of_client = ["if-none-match", "if-modified-since", "if-range", "range"];
        let kept = ask.fields.iter().filter(|(name, _)| !of_client.contains(&name.as_str()));
        let mut fields: Fields = kept.cloned().collect();
        if let Some(stored) = &stored {
            fields.extend(stored.validators());
        }
        let sent = reached(reply, sent(ask, &fields));
        let answer = match fails(reply) {
            true => self.failed(ask, wish, stored, times, reason),
            false => {
                let came = Came::of(reply, &fields, false).dated(times.1);
                self.came(ask, wish, stored, came, times, reason)
            }
        };
        Seen { sent, answer: Some(answer) }
    }

    fn failed(
        &self,
        ask: &Ask,
        wish: &Wish,
        stored: Option<Stored>,
        times: Times,
        reason: &str,
    ) -> Answer {
        match stored {
            Some(stored) if in_spite(&stored, wish, true, times.1) => {
                stored.answer(ask, times.1, &format!("fwd={reason}"))
            }
            _ => fault(502),
        }
    }

    fn came(
        &mut self,
        ask: &Ask,
        wish: &Wish,
        stored: Option<Stored>,
        came: Came,
        times: Times,
        reason: &str,
    ) -> Answer {
        let status = came.status;
        if let Some(stored) = &stored {
            if status == 304 {
                let fresh = stored.confirmed(&came.fields, times, ask);
                let keep = fresh.may_be_stored(ask);
                let words = if keep { "; stored" } else { "" };
                let answer =
                    fresh.answer(ask, times.1, &format!("fwd={reason}; fwd-status=304{words}"));
                match keep {
                    true => self.store(ask, fresh),
                    false => self.forget(ask),
                }
                return answer;
            }
            if [500, 502, 503, 504].contains(&status) && in_spite(stored, wish, false, times.1) {
                return stored.answer(ask, times.1, &format!("fwd={reason}; fwd-status={status}"));
            }
        }
        let new = Stored::of(&came, times, ask);
        let form = formed(&came, ask);
        if new.may_be_stored(ask) {
            match came.is_whole {
                true => self.store(ask, new),
                // What it depends on is known from its head on.
                false => self.vary_on(ask, vary(&new.fields).unwrap_or_default()),
            }
            return form.answer(&came, format!("fwd={reason}; stored"));
        }
        let personal = has(&ask.fields, "authorization") && new.is_for_others_without(ask);
        // An error that a request has earned says nothing of others.
        let earned = (400..500).contains(&status) && ![404, 410].contains(&status);
        if stored.is_none() && !personal && !wish.no_store && !earned {
            self.remember(ask, Slot::Pass(times.1 + PASS_MS));
        }
        match form {
            Form::NotModified => form.answer(&came, format!("fwd={reason}")),
            _ => came.answer(format!("fwd={reason}")),
        }
    }

    fn store(&mut self, ask: &Ask, stored: Stored) {
        let names = vary(&stored.fields).unwrap_or_default();
        if names.is_empty() {
            self.urls.remove(&url(ask));
        }
        self.vary_on(ask, names);
        self.remember(ask, Slot::One(Box::new(stored)));
    }

    /// All that is stored for a URL depends on the same fields.
    fn vary_on(&mut self, ask: &Ask, names: Vec<String>) {
        let known = self.urls.get(&url(ask));
        let same = matches!(known, Some(Slot::Varies(own, _)) if *own == names);
        if !names.is_empty() && !same {
            self.urls.insert(url(ask), Slot::Varies(names, HashMap::new()));
        }
    }

    /// Puts something where the request was looked for.
    fn remember(&mut self, ask: &Ask, slot: Slot) {
        match self.urls.get_mut(&url(ask)) {
            Some(Slot::Varies(names, slots)) => {
                slots.insert(selected(names, &ask.fields), slot);
            }
            _ => drop(self.urls.insert(url(ask), slot)),
        }
    }

    fn forget(&mut self, ask: &Ask) {
        match self.urls.get_mut(&url(ask)) {
            Some(Slot::Varies(names, slots)) => {
                slots.remove(&selected(names, &ask.fields));
            }
            _ => drop(self.urls.remove(&url(ask))),
        }
    }
}

fn first_bytes<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..])
}

fn url(ask: &Ask) -> (String, String) {
    (ask.host.to_lowercase(), ask.target.clone())
}

fn sent(ask: &Ask, fields: &Fields) -> Sent {
    Sent {
        method: ask.method.clone(),
        host: ask.host.clone(),
        target: ask.target.clone(),
        fields: shown(fields, |name| SENT.contains(&name)),
    }
}

/// The origin sees what reaches it.
fn reached(reply: &Reply, sent: Sent) -> Vec<Sent> {
    if reply.kind == Kind::Unreachable { Vec::new() } else { vec![sent] }
}

/// A range that begins beyond the first MiB, or nobody knows where.
fn is_far(fields: &Fields) -> bool {
    let Some(range) = first(fields, "range") else { return false };
    let start = range.split_once('=').map(|(_, set)| set.split('-').next().unwrap_or(""));
    start.is_none_or(|start| start.trim().parse::<u64>().map_or(true, |start| start > 1 << 20))
}

/// What a request asks of caches (RFC 9111, section 5.2.1).
struct Wish {
    no_cache: bool,
    no_store: bool,
    only_if_cached: bool,
    max_age: Option<u64>,
    min_fresh: Option<u64>,
    /// Without a number any staleness will do.
    max_stale: Option<u64>,
    stale_if_error: Option<u64>,
}

/// The first argument of a directive that is a number.
fn number(directives: &Directives, name: &str) -> Option<u64> {
    let of_name = directives.iter().filter(|(own, _)| own == name);
    of_name.filter_map(|(_, argument)| seconds(argument.as_deref()?)).next()
}

fn is(directives: &Directives, name: &str) -> bool {
    directives.iter().any(|(own, _)| own == name)
}

impl Wish {
    fn of(fields: &Fields) -> Self {
        let mut own = directives(fields, "cache-control");
        if !has(fields, "cache-control") {
            // RFC 9111, section 5.4.
            let pragmas = members(fields, "pragma", true).into_iter();
            own.extend(
                pragmas
                    .filter(|it| it.eq_ignore_ascii_case("no-cache"))
                    .map(|it| (it.to_lowercase(), None)),
            );
        }
        let bare = own.iter().any(|(name, argument)| name == "max-stale" && argument.is_none());
        Self {
            no_cache: is(&own, "no-cache"),
            no_store: is(&own, "no-store"),
            only_if_cached: is(&own, "only-if-cached"),
            max_age: number(&own, "max-age"),
            min_fresh: number(&own, "min-fresh"),
            max_stale: if bare { Some(u64::MAX) } else { number(&own, "max-stale") },
            stale_if_error: number(&own, "stale-if-error"),
        }
    }
}

enum Use {
    Fresh,
    WhileAsking,
    No(&'static str),
}

fn ms(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// RFC 9111, section 4: whether a stored response is used without asking.
fn may_use(stored: &Stored, wish: &Wish, now_ms: u64) -> Use {
    if wish.no_cache {
        return Use::No("request");
    }
    let said = stored.said();
    if said.no_cache {
        return Use::No("stale");
    }
    let age = stored.age_ms(now_ms);
    let left = stored.lifetime_ms() - age;
    if wish.max_age.is_some_and(|most| age >= ms(most)) {
        return Use::No("request");
    }
    if wish.min_fresh.is_some_and(|least| left < ms(least)) {
        return Use::No("request");
    }
    if left > 0 {
        return Use::Fresh;
    }
    if wish.max_age.is_some() && wish.max_stale.is_none() {
        return Use::No("request");
    }
    if said.must_revalidate {
        return Use::No("stale");
    }
    if -left < said.while_revalidating_ms {
        return Use::WhileAsking;
    }
    match wish.max_stale {
        Some(most) if -left <= ms(most) && !said.has_s_maxage => Use::Fresh,
        _ => Use::No("stale"),
    }
}

/// RFC 9111, section 4.2.4, and RFC 5861, section 4: whether a stored response is used since asking
/// has failed.
fn in_spite(stored: &Stored, wish: &Wish, unreachable: bool, now_ms: u64) -> bool {
    let said = stored.said();
    let left = stored.lifetime_ms() - stored.age_ms(now_ms);
    if said.no_cache || (left <= 0 && said.must_revalidate) {
        return false;
    }
    let asked = wish.stale_if_error.map(ms);
    let most = match said.if_error_ms.max(asked) {
        Some(most) => most,
        None if unreachable && !said.has_s_maxage => UNREACHABLE_MS,
        None => 0,
    };
    -left < most
}
