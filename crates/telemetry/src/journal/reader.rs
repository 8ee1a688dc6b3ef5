//! Reading: the shares' files side by side, each from where the reader got to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::sync::Arc;

use super::segments::{Segment, parse, parse_gap, segment_path};
use super::{Share, Shared};

/// Bytes of lines returned at once.
const BUDGET: usize = 256 << 10;

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub share: Share,
    /// Its place among all lines of the journal.
    pub sequence: u64,
    /// What it says.
    pub body: Body,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// What was added.
    Line(Vec<u8>),
    /// This many lines were here that are no longer there, or never were written.
    Dropped(u64),
}

/// Which shares are wanted.
pub type Wanted = Box<dyn Fn(&Share) -> bool + Send>;

/// Which lines are wanted, by what was added.
pub type Matches = Box<dyn Fn(&[u8]) -> bool + Send>;

/// A reader of the wanted shares. Blocking.
pub(super) struct Reader {
    shared: Arc<Shared>,
    wanted: Wanted,
    after: u64,
    shares: BTreeMap<Share, ShareReader>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, wanted: Wanted, after: u64) -> Self {
        Self { shared, wanted, after, shares: BTreeMap::new() }
    }

    /// The next lines up to `through`, in order; fewer than there are when they are many. Empty
    /// when there are none.
    pub(super) fn read(&mut self, through: u64) -> io::Result<Vec<Entry>> {
        let new: Vec<Share> = {
            let index = self.shared.index();
            let unknown = index.shares.keys().filter(|share| !self.shares.contains_key(*share));
            unknown.filter(|share| (self.wanted)(share)).cloned().collect()
        };
        for share in new {
            self.shares.insert(share, ShareReader::new(self.after));
        }
        for (share, reader) in &mut self.shares {
            reader.fill(&self.shared, share)?;
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < BUDGET {
            let heads = self.shares.iter_mut().filter_map(|(share, reader)| {
                let sequence = reader.head.as_ref()?.0;
                (sequence <= through).then_some((sequence, share, reader))
            });
            let Some((_, share, reader)) = heads.min_by_key(|(sequence, ..)| *sequence) else {
                break;
            };
            let Some((sequence, body)) = reader.head.take() else { break };
            bytes += 64
                + match &body {
                    Body::Line(line) => line.len(),
                    Body::Dropped(_) => 0,
                };
            entries.push(Entry { share: share.clone(), sequence, body });
            reader.fill(&self.shared, share)?;
        }
        if entries.is_empty() {
            // A share that comes later has nothing older than this.
            self.after = self.after.max(through);
        }
        Ok(entries)
    }
}

struct ShareReader {
    /// Everything up to here has been read.
    seen: u64,
    file: Option<(Segment, BufReader<File>)>,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
    head: Option<(u64, Body)>,
}

impl ShareReader {
    fn new(after: u64) -> Self {
        Self { seen: after, file: None, partial: Vec::new(), head: None }
    }

    /// Gets the next line, if there is none yet and there is one.
    fn fill(&mut self, shared: &Shared, share: &Share) -> io::Result<()> {
        while self.head.is_none() {
            let Some((segment, file)) = &mut self.file else {
                if !self.open(shared, share)? {
                    return Ok(());
                }
                continue;
            };
            file.read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                let line = std::mem::take(&mut self.partial);
                if let Some((sequence, payload)) = parse(&line)
                    && sequence > self.seen
                {
                    self.seen = sequence;
                    let body = match parse_gap(payload) {
                        Some(dropped) => Body::Dropped(dropped),
                        None => Body::Line(payload.to_vec()),
                    };
                    self.head = Some((sequence, body));
                }
                continue;
            }
            let first = segment.first;
            let later = shared.index().shares.get(share).and_then(|files| {
                let after = files.segments.iter().any(|it| it.first > first);
                // It may have been removed while it was read.
                let gone = !files.segments.iter().any(|it| it.first == first);
                (after || gone).then(|| files.segments.iter().find(|it| it.first == first).copied())
            });
            match later {
                None => return Ok(()),
                Some(current) => {
                    let last = current.map_or(segment.last, |it| it.last);
                    self.seen = self.seen.max(last);
                    self.partial.clear();
                    self.file = None;
                }
            }
        }
        Ok(())
    }

    /// Opens the next file, or finds that lines in between are gone; says whether there was either.
    fn open(&mut self, shared: &Shared, share: &Share) -> io::Result<bool> {
        let (dropped, next) = {
            let index = shared.index();
            let Some(files) = index.shares.get(share) else { return Ok(false) };
            let dropped = files.drops.iter().filter(|drop| drop.through > self.seen);
            let dropped = dropped.fold((0, 0), |(through, count), drop| {
                (drop.through.max(through), count + drop.count)
            });
            (dropped, files.segments.iter().find(|it| it.last > self.seen).copied())
        };
        if dropped.1 > 0 {
            self.seen = dropped.0;
            self.head = Some((dropped.0, Body::Dropped(dropped.1)));
            return Ok(true);
        }
        let Some(segment) = next else { return Ok(false) };
        match File::open(segment_path(&shared.path(share), segment.first)) {
            Ok(file) => self.file = Some((segment, BufReader::new(file))),
            // Dropped meanwhile: the index knows. If it does not, somebody else has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let index = shared.index();
                let known = index
                    .shares
                    .get(share)
                    .is_some_and(|files| files.segments.iter().any(|it| it.first == segment.first));
                if known {
                    self.seen = segment.last;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// The sequence number after which the last `limit` lines come that `matches` wants, of those
/// after `after` and up to `through`.
pub(super) fn tail(
    shared: &Shared,
    wanted: &Wanted,
    matches: &Matches,
    range: (u64, u64),
    limit: usize,
) -> io::Result<u64> {
    let (after, through) = range;
    if limit == 0 {
        return Ok(through);
    }
    let mut segments: Vec<(Share, Segment)> = {
        let index = shared.index();
        let wanted = index.shares.iter().filter(|(share, _)| wanted(share));
        wanted
            .flat_map(|(share, files)| files.segments.iter().map(|it| (share.clone(), *it)))
            .filter(|(_, segment)| segment.last > after)
            .collect()
    };
    segments.sort_by_key(|(_, segment)| std::cmp::Reverse(segment.last));
    let mut last = std::collections::BTreeSet::new();
    for (share, segment) in segments {
        if last.len() >= limit && last.first().is_some_and(|least| segment.last < *least) {
            break;
        }
        let file = match File::open(segment_path(&shared.path(&share), segment.first)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if let Some((sequence, payload)) = parse(line.trim_ascii_end())
                && sequence > after
                && sequence <= through
                && parse_gap(payload).is_none()
                && matches(payload)
            {
                last.insert(sequence);
                if last.len() > limit {
                    last.pop_first();
                }
            }
            line.clear();
        }
    }
    Ok(match last.first() {
        Some(first) if last.len() >= limit => first - 1,
        // All of them, and what was dropped before them.
        _ => after,
    })
}
