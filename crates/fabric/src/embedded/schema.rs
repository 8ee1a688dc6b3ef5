//! The database file: its tables, its version, and how it is opened.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

/// Marks the file as ours ("SELV").
const APPLICATION: i64 = 0x5345_4C56;
/// What brings the tables from version 1 to 2, from 2 to 3, and so on. The version is kept in
/// `user_version`; all missing steps are one transaction with it, so none is ever half taken.
const MIGRATIONS: &[&str] = &[];

/// The tables of the latest version.
const TABLES: &str = "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (
    key      TEXT PRIMARY KEY NOT NULL,
    revision INTEGER NOT NULL,
    value    BLOB NOT NULL
);
-- One row for each revision since the oldest kept; no value means a deletion.
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY NOT NULL,
    key      TEXT NOT NULL,
    value    BLOB
);
CREATE TABLE streams (
    stream TEXT PRIMARY KEY NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE messages (
    stream   TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    payload  BLOB NOT NULL,
    PRIMARY KEY (stream, sequence)
);
CREATE TABLE message_ids (
    stream   TEXT NOT NULL,
    id       TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (stream, id)
) WITHOUT ROWID;
CREATE INDEX message_ids_by_sequence ON message_ids (stream, sequence);
CREATE TABLE cursors (
    stream       TEXT NOT NULL,
    name         TEXT NOT NULL,
    acknowledged INTEGER NOT NULL,
    PRIMARY KEY (stream, name)
) WITHOUT ROWID;
";

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it can't be used.
    #[error("the store at {path} can't be opened: check that the directory can be written")]
    Directory {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "the store at {path} is in use by process {process}: stop that process first, or use \
         another directory"
    )]
    InUse {
        /// Where the store is.
        path: PathBuf,
        /// The other process, as far as it has said.
        process: String,
    },
    /// It was written by a later release.
    #[error(
        "the store at {path} has version {found}, and this program knows versions up to {known}: \
         run the newer program that wrote it"
    )]
    Newer {
        /// Where the store is.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that can be read.
        known: i64,
    },
    /// The file is a database of something else.
    #[error("{0} is not a Selvedge store: point to another directory or move the file away")]
    Foreign(PathBuf),
    /// SQLite failed.
    #[error("the store at {path} can't be opened")]
    Database {
        /// Where the store is.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// An opened store: the writer's connection and what it found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) lock: Lock,
    pub(super) file: PathBuf,
    pub(super) incarnation: u64,
    /// Grows at every opening; see [`super::leases`].
    pub(super) life: u64,
    pub(super) revision: u64,
}

/// Held for as long as the store is open.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not do: a child that is just being started may have it open too.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "the fabric's store stays locked until the process ends");
        }
    }
}

/// Locks and opens the store in `directory`, making it if it is absent.
pub(super) fn open(directory: &Path) -> Result<Opened, OpenError> {
    let lock = lock(directory)?;
    let file = directory.join("fabric.db");
    create(&file).map_err(|source| OpenError::Directory { path: file.clone(), source })?;
    let failed = |source| OpenError::Database { path: file.clone(), source };
    let mut connection = Connection::open(&file).map_err(failed)?;
    check_version(&connection, &file)?;
    prepare(&mut connection, MIGRATIONS).map_err(failed)?;
    let (incarnation, life, revision) = start_life(&mut connection).map_err(failed)?;
    Ok(Opened { connection, lock, file, incarnation, life, revision })
}

/// Starts a new incarnation of the store in `directory`, which no process may have open: call this
/// after putting a backup of `fabric.db` in its place (and removing `fabric.db-wal` and
/// `fabric.db-shm`, which belong to what it replaces). Every document then counts as newer than whatever was
/// handed out before, every watch starts anew, and every consumer is told of a gap, since messages
/// newer than the backup are lost. Returns the new incarnation.
pub fn new_incarnation(directory: &Path) -> Result<u64, OpenError> {
    let mut opened = open(directory)?;
    let incarnation = (opened.incarnation + 1).max(unix_seconds());
    let write = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        set_meta(&transaction, "incarnation", incarnation)?;
        transaction.execute("DELETE FROM changes", ())?;
        transaction.execute("UPDATE streams SET last = last + ?1", (LOST,))?;
        transaction.commit()
    };
    write(&mut opened.connection)
        .map_err(|source| OpenError::Database { path: opened.file.clone(), source })?;
    Ok(incarnation)
}

/// How many sequence numbers are skipped, so that none that was handed out after the backup is used
/// for another message.
const LOST: u64 = 1 << 32;

/// Opens one more connection, for reading only.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// How long SQLite waits for a lock. Only a checkpoint or a tool of the operator's can hold one.
const BUSY: Duration = Duration::from_secs(5);

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute((name, value))?;
    Ok(())
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row((name,), |row| row.get(0))
}

/// Makes the file readable by its owner only; SQLite gives its side files the same mode. A file that
/// is there is not opened, since closing it would give up SQLite's locks on it in this process.
fn create(file: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let failed = |source| OpenError::Directory { path: directory.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let path = directory.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| OpenError::Directory { path, source })?;
    match lock.try_lock() {
        Ok(()) => {
            let note = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            note.map_err(failed)?;
            Ok(Lock(lock))
        }
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut process = String::new();
            // The other process may not have got as far as writing who it is.
            let _ = lock.take(20).read_to_string(&mut process);
            Err(OpenError::InUse { path: directory.to_owned(), process })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Before anything is written, so that a file that is not ours stays as it is.
fn check_version(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let pragma = |name: &str| -> Result<i64, OpenError> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|source| OpenError::Database { path: file.to_owned(), source })
    };
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let empty = pragma("page_count")? == 0;
    if application != APPLICATION && !empty {
        return Err(OpenError::Foreign(file.to_owned()));
    }
    let known = latest(MIGRATIONS);
    if version > known {
        return Err(OpenError::Newer { path: file.to_owned(), found: version, known });
    }
    Ok(())
}

fn latest(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).map_or(i64::MAX, |steps| steps.saturating_add(1))
}

fn prepare(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        set_meta(&transaction, "incarnation", unix_seconds())?;
        set_meta(&transaction, "life", 0)?;
        set_meta(&transaction, "revision", 0)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    } else {
        let missing = migrations.iter().zip(1..).filter(|(_, from)| *from >= version);
        for (step, from) in missing {
            tracing::info!(from, "bringing the fabric's store up to date");
            transaction.execute_batch(step)?;
        }
    }
    if version != latest(migrations) {
        transaction.pragma_update(None, "user_version", latest(migrations))?;
    }
    transaction.commit()
}

fn start_life(connection: &mut Connection) -> rusqlite::Result<(u64, u64, u64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // The clock makes it grow even when the file is an older copy.
    let life = (meta(&transaction, "life")? + 1).max(unix_seconds());
    set_meta(&transaction, "life", life)?;
    let incarnation = meta(&transaction, "incarnation")?;
    let revision = meta(&transaction, "revision")?;
    transaction.commit()?;
    Ok((incarnation, life, revision))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_older_store_is_brought_up_to_date_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        drop(open(scratch.path()).unwrap());
        let file = scratch.path().join("fabric.db");
        let mut connection = Connection::open(&file).unwrap();
        set_meta(&connection, "revision", 7).unwrap();
        assert_eq!(version(&connection), 1);
        let first = "CREATE TABLE added (name TEXT); INSERT INTO added VALUES ('one');";
        prepare(&mut connection, &[first, "INSERT INTO added VALUES ('two'); SELECT nothing;"])
            .unwrap_err();
        assert_eq!(version(&connection), 1);
        let table = "SELECT count(*) FROM sqlite_master WHERE name = 'added'";
        assert_eq!(connection.query_row(table, (), |row| row.get(0)), Ok(0));
        let second = "INSERT INTO added VALUES ('two');";
        prepare(&mut connection, &[first]).unwrap();
        prepare(&mut connection, &[first, second]).unwrap();
        prepare(&mut connection, &[first, second]).unwrap();
        let rows = "SELECT group_concat(name) FROM added";
        let rows: String = connection.query_row(rows, (), |row| row.get(0)).unwrap();
        assert_eq!((version(&connection), rows.as_str()), (3, "one,two"));
        assert_eq!(meta(&connection, "revision"), Ok(7));
        drop(connection);
        let refusal = open(scratch.path()).unwrap_err().to_string();
        assert!(refusal.contains("has version 3, and this program knows versions up to 1"));
        let connection = Connection::open(&file).unwrap();
        assert_eq!(version(&connection), 3, "refused as it is");
    }
}
