//! The files: `SHARE/FIRST.log`, a line being `SEQUENCE PAYLOAD` or, for lines that were dropped
//! before they were written, `SEQUENCE !COUNT`; and `SHARE/dropped.json`, which counts the lines
//! of files that were removed.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Share, Shared};

/// How many places of dropped lines are told apart.
const MAX_DROPS: usize = 32;
const DROPPED: &str = "dropped.json";

/// Lines on their way to a file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    pub(super) first: u64,
    pub(super) last: u64,
    /// How many lines, those included that a line counts as dropped.
    count: u64,
}

impl Batch {
    pub(super) fn push(&mut self, sequence: u64, payload: &[u8]) {
        self.begin(sequence, 1);
        self.lines.extend_from_slice(payload);
        self.lines.push(b'\n');
    }

    pub(super) fn push_gap(&mut self, sequence: u64, dropped: u64) {
        self.begin(sequence, dropped);
        self.lines.extend_from_slice(format!("!{dropped}\n").as_bytes());
    }

    fn begin(&mut self, sequence: u64, count: u64) {
        if self.lines.is_empty() {
            self.first = sequence;
        }
        self.last = sequence;
        self.count += count;
        self.lines.extend_from_slice(format!("{sequence} ").as_bytes());
    }
}

/// A file of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its first line's sequence number: the file's name.
    pub(super) first: u64,
    /// No line of it has a greater one.
    pub(super) last: u64,
    pub(super) bytes: u64,
}

/// Lines that were removed with their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drop {
    /// The last of them.
    pub(super) through: u64,
    pub(super) count: u64,
}

/// What there is of a share, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) segments: VecDeque<Segment>,
    pub(super) drops: Vec<Drop>,
}

impl Files {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn dropped(&mut self, drop: Drop) {
        self.drops.push(drop);
        if self.drops.len() > MAX_DROPS {
            let first = self.drops.remove(0);
            if let Some(second) = self.drops.first_mut() {
                second.count += first.count;
            }
        }
    }
}

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) shares: BTreeMap<Share, Files>,
}

impl Index {
    /// Reads what an earlier life left, takes back lines that were cut off, and returns the last
    /// sequence number.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, u64)> {
        private(directory)?;
        let mut index = Self::default();
        let mut last = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let share = entry.file_name().to_str().and_then(Share::parse);
            let Some(share) = share.filter(|_| entry.path().is_dir()) else { continue };
            let files = open_share(&entry.path())?;
            let ends = files.segments.iter().map(|segment| segment.last);
            last = ends.chain(files.drops.iter().map(|drop| drop.through)).fold(last, u64::max);
            index.shares.insert(share, files);
        }
        Ok((index, last))
    }

    pub(super) fn size(&self) -> u64 {
        self.shares.values().map(Files::bytes).sum()
    }

    /// The share that takes most.
    fn largest(&self) -> Option<Share> {
        let taking = self.shares.iter().filter(|(_, files)| !files.segments.is_empty());
        taking.max_by_key(|(_, files)| files.bytes()).map(|(share, _)| share.clone())
    }
}

fn private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

pub(super) fn segment_path(share: &Path, first: u64) -> PathBuf {
    share.join(format!("{first:020}.log"))
}

fn open_share(directory: &Path) -> io::Result<Files> {
    let drops = match fs::read(directory.join(DROPPED)) {
        Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut files = Files { segments: VecDeque::new(), drops };
    let mut names: Vec<u64> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        names.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    names.sort_unstable();
    let counted = files.drops.last().map_or(0, |drop| drop.through);
    for (index, first) in names.iter().copied().enumerate() {
        let path = segment_path(directory, first);
        // It was counted as dropped, and the process ended before it was removed.
        if first <= counted {
            fs::remove_file(&path)?;
            continue;
        }
        let segment = match names.get(index + 1) {
            Some(next) => {
                Some(Segment { first, last: next - 1, bytes: fs::metadata(&path)?.len() })
            }
            None => repair(&path, first)?,
        };
        files.segments.extend(segment);
    }
    Ok(files)
}

/// Cuts off a last line that has no end.
fn repair(path: &Path, first: u64) -> io::Result<Option<Segment>> {
    let content = fs::read(path)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = content.get(..whole).unwrap_or_default();
    if lines.is_empty() {
        fs::remove_file(path)?;
        return Ok(None);
    }
    if whole < content.len() {
        OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    let last = lines.rsplit(|byte| *byte == b'\n').find_map(|line| Some(parse(line)?.0));
    Ok(Some(Segment { first, last: last.unwrap_or(first).max(first), bytes: whole as u64 }))
}

/// A line's sequence number and payload.
pub(super) fn parse(line: &[u8]) -> Option<(u64, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (number, payload) = line.split_at_checked(space)?;
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((number, payload.get(1..)?))
}

/// How many lines a payload stands for that counts dropped ones.
pub(super) fn parse_gap(payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload.strip_prefix(b"!")?).ok()?.parse().ok()
}

/// Writes the files. Only one does.
pub(super) struct Segments {
    pub(super) shared: Arc<Shared>,
    pub(super) limit: u64,
    pub(super) segment: u64,
}

impl Segments {
    /// Writes the batches down and keeps to the limit. What can't be written counts as dropped, and
    /// why is returned.
    pub(super) fn write(&mut self, batches: Vec<(Share, Batch)>) -> Option<String> {
        let mut problem = None;
        for (share, batch) in batches {
            if let Err(error) = self.write_share(&share, &batch) {
                let queues = &mut self.shared.pending().queues;
                queues.entry(share).or_default().dropped += batch.count;
                problem = Some(error);
            }
        }
        if let Err(error) = self.keep_to_limit() {
            problem = Some(error);
        }
        let directory = self.shared.directory.display();
        problem.map(|error| format!("log lines can't be written to {directory}: {error}"))
    }

    fn write_share(&self, share: &Share, batch: &Batch) -> io::Result<()> {
        let directory = self.shared.path(share);
        let known = self.shared.index().shares.get(share).map(|it| it.segments.back().copied());
        if known.is_none() {
            private(&directory)?;
        }
        let open = known.flatten().filter(|segment| segment.bytes < self.segment);
        let first = open.map_or(batch.first, |segment| segment.first);
        let bytes = open.map_or(0, |segment| segment.bytes);
        let path = segment_path(&directory, first);
        // What clients asked for is nobody else's business.
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all(&batch.lines) {
            // What follows must not begin in the middle of a line.
            file.set_len(bytes)?;
            return Err(error);
        }
        let bytes = bytes + batch.lines.len() as u64;
        let mut index = self.shared.index();
        let files = index.shares.entry(share.clone()).or_default();
        let segment = Segment { first, last: batch.last, bytes };
        match files.segments.back_mut().filter(|_| open.is_some()) {
            Some(back) => *back = segment,
            None => files.segments.push_back(segment),
        }
        Ok(())
    }

    fn keep_to_limit(&self) -> io::Result<()> {
        loop {
            let index = self.shared.index();
            if index.size() <= self.limit {
                return Ok(());
            }
            let Some(share) = index.largest() else { return Ok(()) };
            drop(index);
            self.drop_oldest(&share)?;
        }
    }

    /// Counts first and removes then: whatever ends the process in between, nothing is lost from
    /// the count.
    fn drop_oldest(&self, share: &Share) -> io::Result<()> {
        let oldest = {
            let index = self.shared.index();
            index.shares.get(share).and_then(|files| files.segments.front().copied())
        };
        let Some(segment) = oldest else { return Ok(()) };
        let directory = self.shared.path(share);
        let path = segment_path(&directory, segment.first);
        let count = count(&path)?;
        let drops = {
            let mut index = self.shared.index();
            let files = index.shares.entry(share.clone()).or_default();
            files.segments.pop_front();
            files.dropped(Drop { through: segment.last, count });
            files.drops.clone()
        };
        let new = directory.join("dropped.json~");
        fs::write(&new, serde_json::to_vec(&drops)?)?;
        fs::rename(&new, directory.join(DROPPED))?;
        fs::remove_file(&path)
    }
}

/// How many lines a file holds, those included that its lines count as dropped.
fn count(path: &Path) -> io::Result<u64> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let (mut line, mut count) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        count += parse(line.trim_ascii_end()).and_then(|it| parse_gap(it.1)).unwrap_or(1);
        line.clear();
    }
    Ok(count)
}
