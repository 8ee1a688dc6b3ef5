//! Many logs, each in its own order, as one.
//!
//! What was there when the question was asked is merged exactly: nothing is said before every
//! origin has said its next line or that it has no more. After that lines come as they are
//! written, and each is held back for a moment in which an earlier one may still arrive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use jiff::Timestamp;
use selvedge_api::{LogCursor, LogEvent, LogFilter};
use selvedge_model::SiteId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// How long an origin may be silent, without as much as a sign of life, while what was there is
/// being merged.
const STALL: Duration = Duration::from_secs(10);
/// After this a reader is told for whom it waits.
const TOLD: Duration = Duration::from_secs(2);
/// How long a new line is held back while following.
const WINDOW: Duration = Duration::from_millis(250);
/// How many lines are held back at most.
const MAX_HELD: usize = 4096;

/// What an origin says.
#[derive(Debug)]
pub(super) enum Said {
    /// A line or a gap, in the origin's order.
    Line(LogEvent),
    /// It is still looking for what was there.
    Pending,
    /// It has said everything up to this sequence number that was there.
    Current(u64),
    /// It does not answer (any more), or answers again.
    Site { answers: bool, reason: String },
}

/// Somebody who has a log: a site, or control.
pub(super) struct Origin {
    pub(super) site: Option<SiteId>,
    pub(super) said: mpsc::Receiver<Said>,
}

/// Where a line stands.
type Place = (Timestamp, Option<SiteId>, u64);

fn place(event: &LogEvent) -> Option<Place> {
    match event {
        LogEvent::Record(it) => Some((it.time, it.site.clone(), it.sequence)),
        LogEvent::Gap(it) => Some((it.time, it.site.clone(), it.sequence)),
        LogEvent::Pending { .. } | LogEvent::Site { .. } | LogEvent::Current { .. } => None,
    }
}

/// What an origin says stays in its own order whatever its lines' times are: a line counts as no
/// earlier than the one before it. So what a reader has seen of an origin is all up to some line.
#[derive(Default)]
struct Clocks(BTreeMap<Option<SiteId>, Timestamp>);

impl Clocks {
    fn place(&mut self, event: &LogEvent) -> Option<Place> {
        let (time, site, sequence) = place(event)?;
        let clock = self.0.entry(site.clone()).or_insert(time);
        *clock = (*clock).max(time);
        Some((*clock, site, sequence))
    }
}

/// Merges until every origin has ended or nobody listens. With `patience`, what was there is said
/// after that at the latest, without the origins that have not said theirs by then.
pub(super) async fn run(
    mut origins: Vec<Origin>,
    filter: LogFilter,
    patience: Option<Duration>,
    out: mpsc::Sender<LogEvent>,
) {
    let mut merge = Merge {
        cursor: filter.after.clone(),
        clocks: Clocks::default(),
        ends: patience.map(|patience| Instant::now() + patience),
        awaited: BTreeSet::new(),
        late: Vec::new(),
        silent: BTreeSet::new(),
        out,
    };
    // A reader that goes on where it was gets everything since.
    let limit = filter.limit.filter(|_| filter.after.is_empty());
    if merge.history(&mut origins, limit).await.is_none() || !filter.follow {
        return;
    }
    merge.follow(origins).await;
}

struct Merge {
    cursor: LogCursor,
    clocks: Clocks,
    /// When what was there must have been said.
    ends: Option<Instant>,
    /// Origins of which the reader knows that it waits for them.
    awaited: BTreeSet<Option<SiteId>>,
    /// Origins that were not waited for.
    late: Vec<Option<SiteId>>,
    /// Sites of which the reader knows that they do not answer.
    silent: BTreeSet<SiteId>,
    out: mpsc::Sender<LogEvent>,
}

impl Merge {
    /// `None` when nobody listens any more.
    async fn send(&mut self, event: LogEvent) -> Option<()> {
        self.cursor.note(&event);
        self.out.send(event).await.ok()
    }

    /// Says that a site answers or does not, where that is news.
    async fn site(&mut self, site: Option<SiteId>, answers: bool, reason: String) -> Option<()> {
        let Some(site) = site else { return Some(()) };
        let news = match answers {
            true => self.silent.remove(&site),
            false => self.silent.insert(site.clone()),
        };
        if !news {
            return Some(());
        }
        self.send(LogEvent::Site { site, answers, reason }).await
    }

    /// Says what was there when the question was asked.
    async fn history(&mut self, origins: &mut [Origin], limit: Option<u32>) -> Option<()> {
        let mut heads: BTreeMap<Place, (usize, LogEvent)> = BTreeMap::new();
        let mut last = VecDeque::new();
        // All of them look at the same time.
        let since = Instant::now();
        for index in 0..origins.len() {
            self.advance(origins, (index, since), &mut heads).await?;
        }
        while let Some((_, (index, event))) = heads.pop_first() {
            match limit {
                None => self.send(event).await?,
                Some(limit) => {
                    last.push_back(event);
                    if last.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
                        last.pop_front();
                    }
                }
            }
            self.advance(origins, (index, Instant::now()), &mut heads).await?;
        }
        for event in last {
            self.send(event).await?;
        }
        for site in std::mem::take(&mut self.late) {
            self.send(LogEvent::Pending { site }).await?;
        }
        let cursor = self.cursor.clone();
        self.send(LogEvent::Current { cursor }).await
    }

    /// Waits for the next line of an origin, or for its word that there is none. One that says
    /// nothing is put aside: what it says later comes when it does. `since` it has been waited for.
    async fn advance(
        &mut self,
        origins: &mut [Origin],
        (index, since): (usize, Instant),
        heads: &mut BTreeMap<Place, (usize, LogEvent)>,
    ) -> Option<()> {
        let Some(origin) = origins.get_mut(index) else { return Some(()) };
        let site = origin.site.clone();
        let mut heard = since;
        loop {
            let stall = heard + STALL;
            let until = self.ends.map_or(stall, |ends| ends.min(stall));
            let said = match tokio::time::timeout_at(until, origin.said.recv()).await {
                Ok(None) => return Some(()),
                Ok(Some(said)) => said,
                Err(_) if until < stall => {
                    self.late.push(site);
                    return Some(());
                }
                Err(_) => {
                    let reason = format!("it said nothing for {} s", STALL.as_secs());
                    return self.site(site, false, reason).await;
                }
            };
            heard = Instant::now();
            match said {
                Said::Line(event) => {
                    if let Some(place) = self.clocks.place(&event) {
                        heads.insert(place, (index, event));
                        return Some(());
                    }
                }
                Said::Pending => {
                    if heard >= since + TOLD && self.awaited.insert(site.clone()) {
                        self.send(LogEvent::Pending { site: site.clone() }).await?;
                    }
                }
                Said::Current(sequence) => {
                    self.cursor.advance(site.as_ref(), sequence);
                    return Some(());
                }
                Said::Site { answers, reason } => {
                    self.site(site.clone(), answers, reason).await?;
                    if !answers {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Says new lines as they come.
    async fn follow(&mut self, origins: Vec<Origin>) -> Option<()> {
        let mut said: SelectAll<_> = origins
            .into_iter()
            .map(|origin| {
                let site = origin.site;
                ReceiverStream::new(origin.said).map(move |said| (site.clone(), said)).boxed()
            })
            .collect();
        let mut held = Held::default();
        loop {
            let due = held.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = timer => {
                    for event in held.release(Instant::now()) {
                        self.send(event).await?;
                    }
                }
                next = said.next() => match next {
                    None => break,
                    Some((site, said)) => self.hear(site, said, &mut held).await?,
                },
                () = self.out.closed() => return None,
            }
        }
        for (_, event) in held.lines.into_values() {
            self.send(event).await?;
        }
        Some(())
    }

    /// Takes what an origin says while it is followed.
    async fn hear(&mut self, site: Option<SiteId>, said: Said, held: &mut Held) -> Option<()> {
        if let Said::Site { answers, reason } = said {
            return self.site(site, answers, reason).await;
        }
        if site.as_ref().is_some_and(|site| self.silent.contains(site)) {
            self.site(site.clone(), true, "it answers again".to_owned()).await?;
        }
        match said {
            Said::Line(event) => {
                if let Some(place) = self.clocks.place(&event) {
                    held.add(place, event);
                }
            }
            Said::Current(sequence) => self.cursor.advance(site.as_ref(), sequence),
            Said::Pending | Said::Site { .. } => {}
        }
        Some(())
    }
}

/// Lines held back.
#[derive(Default)]
struct Held {
    lines: BTreeMap<Place, (Instant, LogEvent)>,
    /// When the first of them came.
    oldest: Option<Instant>,
}

impl Held {
    fn add(&mut self, place: Place, event: LogEvent) {
        let now = Instant::now();
        self.lines.insert(place, (now, event));
        self.oldest.get_or_insert(now);
    }

    /// When the next line must go out.
    fn due(&self) -> Option<Instant> {
        if self.lines.len() >= MAX_HELD {
            return Some(Instant::now());
        }
        self.oldest.map(|came| came + WINDOW)
    }

    /// The lines whose time has come, and those that belong before them.
    fn release(&mut self, now: Instant) -> Vec<LogEvent> {
        let full = self.lines.len() >= MAX_HELD;
        let last = self
            .lines
            .iter()
            .enumerate()
            .filter(|(index, (_, (came, _)))| {
                *came + WINDOW <= now || (full && *index < MAX_HELD / 2)
            })
            .map(|(_, (place, _))| place.clone())
            .next_back();
        let Some(last) = last else { return Vec::new() };
        let rest = self.lines.split_off(&last);
        let mut out = std::mem::replace(&mut self.lines, rest);
        out.extend(self.lines.remove_entry(&last));
        self.oldest = self.lines.values().map(|(came, _)| *came).min();
        out.into_values().map(|(_, event)| event).collect()
    }
}

#[cfg(test)]
mod tests {
    use selvedge_api::{LogLevel, LogRecord, LogSource};

    use super::*;

    fn line(site: Option<&str>, sequence: u64, second: i64) -> Said {
        Said::Line(LogEvent::Record(Box::new(LogRecord {
            time: Timestamp::from_second(second).unwrap(),
            sequence,
            site: site.map(|site| SiteId::new(site).unwrap()),
            source: LogSource::Output,
            level: LogLevel::Info,
            app: None,
            environment: None,
            service: None,
            release: None,
            request_id: None,
            push: None,
            text: String::new(),
            access: None,
        })))
    }

    struct World {
        origins: Vec<(Option<String>, mpsc::Sender<Said>)>,
        out: mpsc::Receiver<LogEvent>,
    }

    impl World {
        fn new(sites: &[Option<&str>], query: &str) -> Self {
            Self::within(None, sites, query)
        }

        fn within(patience: Option<Duration>, sites: &[Option<&str>], query: &str) -> Self {
            let mut origins = Vec::new();
            let (mut senders, (sender, out)) = (Vec::new(), mpsc::channel(100));
            for site in sites {
                let (to, said) = mpsc::channel(100);
                origins.push(Origin { site: site.map(|it| SiteId::new(it).unwrap()), said });
                senders.push((site.map(str::to_owned), to));
            }
            let filter = serde_urlencoded::from_str(query).unwrap();
            tokio::spawn(run(origins, filter, patience, sender));
            Self { origins: senders, out }
        }

        /// Lines as (sequence, second) of the origin number `index`.
        async fn say(&self, index: usize, lines: &[(u64, i64)]) {
            let (site, to) = &self.origins[index];
            for (sequence, second) in lines {
                to.send(line(site.as_deref(), *sequence, *second)).await.unwrap();
            }
        }

        async fn current(&self, index: usize, sequence: u64) {
            self.origins[index].1.send(Said::Current(sequence)).await.unwrap();
        }

        /// The next events, in short.
        async fn next(&mut self, count: usize) -> Vec<String> {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(match self.out.recv().await {
                    Some(LogEvent::Record(it)) => {
                        let site = it.site.as_ref().map_or("@", SiteId::as_str);
                        format!("{site}{}", it.sequence)
                    }
                    Some(LogEvent::Current { cursor }) => format!("current {cursor}"),
                    Some(LogEvent::Site { site, answers, .. }) => format!("{site} {answers}"),
                    Some(LogEvent::Gap(_)) => "gap".to_owned(),
                    Some(LogEvent::Pending { site }) => {
                        format!("{} pending", site.as_ref().map_or("@", SiteId::as_str))
                    }
                    None => "end".to_owned(),
                });
            }
            all
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_is_merged_exactly_however_slow_an_origin_is() {
        let mut world = World::new(&[None, Some("fra"), Some("nyc")], "");
        world.say(0, &[(1, 10), (2, 40)]).await;
        world.current(0, 2).await;
        // Its own order counts for more than its clock, which was set back.
        world.say(1, &[(1, 20), (2, 50), (3, 45)]).await;
        world.current(1, 3).await;
        tokio::time::sleep(STALL / 2).await;
        assert!(world.out.try_recv().is_err(), "nyc may have something earlier");
        world.say(2, &[(7, 5), (8, 30)]).await;
        world.current(2, 9).await;
        let all = world.next(9).await;
        let order = ["nyc7", "@1", "fra1", "nyc8", "@2", "fra2", "fra3"];
        assert_eq!(all[..7], order);
        assert_eq!(all[7..], ["current @:2,fra:3,nyc:9", "end"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_are_the_last_of_all_and_silence_is_named() {
        let mut world = World::new(&[Some("fra"), Some("nyc"), Some("sin")], "limit=3");
        world.say(0, &[(1, 10), (2, 20), (3, 30)]).await;
        world.current(0, 3).await;
        world.say(1, &[(1, 15), (2, 25), (3, 35)]).await;
        world.current(1, 3).await;
        let all = world.next(6).await;
        assert_eq!(all, ["sin false", "nyc2", "fra3", "nyc3", "current fra:3,nyc:3", "end"]);

        // A reader that goes on where it was gets everything since.
        let mut world = World::new(&[Some("fra")], "limit=1&after=fra:1");
        world.say(0, &[(2, 20), (3, 30)]).await;
        world.current(0, 3).await;
        assert_eq!(world.next(3).await, ["fra2", "fra3", "current fra:3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_for_lines_is_waited_for_however_long_it_takes() {
        let mut world = World::new(&[Some("fra"), Some("nyc"), None], "");
        world.say(0, &[(1, 10)]).await;
        world.current(0, 1).await;
        for _ in 0..3 * STALL.as_secs() {
            for index in [1, 2] {
                world.origins[index].1.send(Said::Pending).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        world.say(1, &[(1, 5)]).await;
        world.current(1, 1).await;
        world.current(2, 0).await;
        let all = world.next(6).await;
        assert_eq!(
            all,
            ["nyc pending", "@ pending", "nyc1", "fra1", "current @:0,fra:1,nyc:1", "end"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_site_that_is_followed_comes_back_and_loses_nothing() {
        let mut world = World::new(&[Some("fra"), Some("nyc"), Some("sin")], "follow=true");
        world.say(0, &[(1, 10)]).await;
        world.current(0, 1).await;
        let all = world.next(4).await;
        assert_eq!(all, ["nyc false", "sin false", "fra1", "current fra:1"]);
        for answers in [false, true] {
            let said = Said::Site { answers, reason: String::new() };
            world.origins[2].1.send(said).await.unwrap();
        }
        world.say(1, &[(1, 5), (2, 15)]).await;
        world.current(1, 2).await;
        let mut back = world.next(2).await;
        back.sort();
        assert_eq!(back, ["nyc true", "sin true"]);
        assert_eq!(world.next(2).await, ["nyc1", "nyc2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_not_wait_gets_what_the_others_have_said() {
        let patience = Some(Duration::from_secs(2));
        let sites = [Some("fra"), Some("nyc"), Some("sin")];
        let mut world = World::within(patience, &sites, "limit=2&follow=true");
        world.say(0, &[(1, 10), (2, 20), (3, 30)]).await;
        world.current(0, 3).await;
        world.say(2, &[(1, 25)]).await;
        let all = world.next(5).await;
        assert_eq!(all, ["sin1", "fra3", "nyc pending", "sin pending", "current fra:3,sin:1"]);
        world.say(1, &[(1, 5)]).await;
        assert_eq!(world.next(1).await, ["nyc1"], "late, and not lost");
    }

    #[tokio::test(start_paused = true)]
    async fn new_lines_are_put_in_order_within_a_moment() {
        let mut world = World::new(&[Some("fra"), Some("nyc")], "follow=true");
        world.current(0, 0).await;
        world.current(1, 0).await;
        assert_eq!(world.next(1).await, ["current fra:0,nyc:0"]);
        world.say(0, &[(1, 20)]).await;
        tokio::time::sleep(WINDOW / 2).await;
        world.say(1, &[(1, 10), (2, 30)]).await;
        assert_eq!(world.next(3).await, ["nyc1", "fra1", "nyc2"]);

        let (_, to) = &world.origins[1];
        for answers in [false, true] {
            to.send(Said::Site { answers, reason: String::new() }).await.unwrap();
        }
        assert_eq!(world.next(2).await, ["nyc false", "nyc true"]);
        // However many come at once, each comes out, in order.
        let lines: Vec<(u64, i64)> = (2..2 + 2 * MAX_HELD as u64).map(|n| (n, 40)).collect();
        let World { origins, out } = &mut world;
        let said = async {
            for (sequence, second) in &lines {
                origins[0].1.send(line(Some("fra"), *sequence, *second)).await.unwrap();
            }
        };
        let heard = async {
            for (sequence, _) in &lines {
                let Some(LogEvent::Record(it)) = out.recv().await else { panic!("a line") };
                assert_eq!(it.sequence, *sequence);
            }
        };
        tokio::join!(said, heard);
    }
}
