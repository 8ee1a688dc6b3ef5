//! User ids of a box's tenants, which no other box of the machine uses while it runs.
//!
//! A box keeps its table of tenants with its data and takes one of the ranges after the machine's
//! own. That the range is taken is a bound socket in the abstract namespace (unix(7)), which leaves
//! no file and ends with the process, however that ends. The range is kept from one start to the
//! next unless another box has taken it meanwhile; tenants then get other ids, and their files with
//! them when they are next used. The supervisor of a box calls this.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use crate::tenant;

/// How many boxes of one machine can run at once.
const RANGES: u32 = 64;
/// How many tenants a box can have.
const SIZE: u32 = 1_024;

/// A range of user ids, reserved until this is dropped.
#[derive(Debug)]
pub struct ReservedIds {
    _socket: UnixDatagram,
}

impl ReservedIds {
    /// Reserves ids for the tenants of `table` and states them there. No runtime may use the table
    /// yet.
    ///
    /// # Errors
    /// When the table can't be read or written, or all ranges are in use.
    pub fn reserve(table: &Path) -> io::Result<Self> {
        Self::reserve_as("selvedge-box-ids", table)
    }

    fn reserve_as(name: &str, table: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let stated = tenant::ids(&text);
        let first = (0..RANGES).find(|number| range(*number) == stated).unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            table.hash(&mut hasher);
            u32::try_from(hasher.finish() % u64::from(RANGES)).unwrap_or_default()
        });
        for number in (0..RANGES).map(|step| (first + step) % RANGES) {
            let address = SocketAddr::from_abstract_name(format!("{name}-{number}"))?;
            let socket = match UnixDatagram::bind_addr(&address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                socket => socket?,
            };
            if range(number) != stated {
                write(table, &tenant::ids_line(&range(number)))?;
            }
            return Ok(Self { _socket: socket });
        }
        Err(io::Error::other(format!("{RANGES} boxes run on this machine, which is the most")))
    }
}

fn range(number: u32) -> Range<u32> {
    let first = tenant::MACHINE.end + number * SIZE;
    first..first + SIZE
}

/// Replaces the table, whole.
fn write(table: &Path, text: &str) -> io::Result<()> {
    let directory = table.parent().unwrap_or(Path::new("."));
    let temporary = table.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, table)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Tenants;

    #[test]
    fn two_boxes_at_once_share_no_id_and_each_keeps_its_own() {
        let scratch = tempfile::tempdir().expect("a directory");
        let name = format!("selvedge-test-{}", std::process::id());
        let tables = [scratch.path().join("one"), scratch.path().join("two")];
        let id = |table: &Path| Tenants::new(table.to_owned()).id("shop").expect("an id");
        let first = ReservedIds::reserve_as(&name, &tables[0]).expect("a range");
        // As if it had run before, at the same range.
        std::fs::copy(&tables[0], &tables[1]).expect("a copy");
        let theirs = id(&tables[1]);
        let ours = id(&tables[0]);
        assert_eq!(ours, theirs);
        assert!(!tenant::MACHINE.contains(&ours));
        let second = ReservedIds::reserve_as(&name, &tables[1]).expect("a range");
        let theirs = id(&tables[1]);
        assert_ne!(ours, theirs);
        drop((first, second));
        let both: Vec<_> =
            tables.iter().map(|table| ReservedIds::reserve_as(&name, table)).collect();
        assert!(both.iter().all(Result::is_ok));
        assert_eq!((id(&tables[0]), id(&tables[1])), (ours, theirs), "kept over restarts");
        let more: Vec<_> = (2..RANGES)
            .map(|number| ReservedIds::reserve_as(&name, &scratch.path().join(number.to_string())))
            .collect();
        assert!(more.iter().all(Result::is_ok));
        ReservedIds::reserve_as(&name, &scratch.path().join("last")).expect_err("none is free");
    }

    #[test]
    fn a_table_that_says_nothing_has_the_machines_ids() {
        for text in ["", "700000 shop\n", "ids\n", "ids 0 4\n", "ids x y\n"] {
            assert_eq!(tenant::ids(text), tenant::MACHINE, "{text:?}");
        }
        assert_eq!(tenant::ids(&tenant::ids_line(&range(3))), range(3));
    }
}
