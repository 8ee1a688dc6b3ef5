//! The start: takes the index from the files that an earlier process left.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::Shared;
use super::index::Entry;
use super::record::Front;
use super::segment::Segment;
use crate::purge::Stamp;

/// Reads all segments, the oldest first, and gives the number of the next one. What is stamped
/// with a later time than this process began at is not kept: the clock was set back.
pub(super) fn recover(shared: &Shared) -> io::Result<u32> {
    let mut numbers = numbers(shared)?;
    numbers.sort_unstable();
    let mut removed = HashSet::new();
    for number in &numbers {
        let segment = Segment::open(&shared.options.directory, *number);
        let segment = match segment {
            Ok(Some(segment)) => Arc::new(segment),
            Ok(None) => {
                remove(shared, *number)?;
                continue;
            }
            Err(error) => {
                shared.failed("read", &error);
                continue;
            }
        };
        shared.index().add(segment.clone());
        if let Err(error) = read(shared, &segment, &mut removed) {
            shared.failed("read", &error);
        }
    }
    let mut index = shared.index();
    index.removed_earlier(&removed);
    Ok(numbers.last().map_or(0, |last| last.wrapping_add(1)))
}

/// Removes all segments.
pub(super) fn remove_all(shared: &Shared) -> io::Result<()> {
    numbers(shared)?.into_iter().try_for_each(|number| remove(shared, number))
}

fn numbers(shared: &Shared) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(&shared.options.directory)? {
        numbers.extend(file?.file_name().to_str().and_then(Segment::number));
    }
    Ok(numbers)
}

fn remove(shared: &Shared, number: u32) -> io::Result<()> {
    std::fs::remove_file(shared.options.directory.join(Segment::name(number)))
}

fn read(shared: &Shared, segment: &Segment, removed: &mut HashSet<(u32, u32)>) -> io::Result<()> {
    let newest = shared.purger.current();
    segment.scan(|place, front| match front {
        Front::Chunk { .. } => {}
        Front::Removed(place) => {
            removed.insert((place.segment, place.offset));
        }
        Front::Object(object) => {
            let generation = Stamp::from_u64(object.stamp).generation();
            let hash = shared.hash(object.key);
            let mut index = shared.index();
            if generation > newest {
                index.forget(hash);
                return;
            }
            let entry = Entry { hash, place, first: object.first, used: false };
            index.insert(entry, generation.as_u64());
        }
    })
}
