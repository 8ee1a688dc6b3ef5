//! The tables of streams: messages, their ids, and the consumers' cursors.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use crate::{MESSAGE_IDS, Message};

/// A stream's first message kept and its last one. A stream never written has 1 and 0.
fn bounds(connection: &Connection, stream: &str) -> rusqlite::Result<(u64, u64)> {
    let found = connection
        .prepare_cached("SELECT first, last FROM streams WHERE stream = ?1")?
        .query_row((stream,), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.unwrap_or((1, 0)))
}

pub(super) fn publish(
    connection: &Connection,
    stream: &str,
    id: Option<&str>,
    payload: &Bytes,
) -> rusqlite::Result<u64> {
    if let Some(id) = id {
        let earlier = connection
            .prepare_cached("SELECT sequence FROM message_ids WHERE stream = ?1 AND id = ?2")?
            .query_row((stream, id), |row| row.get(0))
            .optional()?;
        if let Some(sequence) = earlier {
            return Ok(sequence);
        }
    }
    let (_, last) = bounds(connection, stream)?;
    let sequence = last + 1;
    connection
        .prepare_cached(
            "INSERT INTO streams (stream, first, last) VALUES (?1, 1, ?2)
             ON CONFLICT (stream) DO UPDATE SET last = ?2",
        )?
        .execute((stream, sequence))?;
    connection
        .prepare_cached("INSERT INTO messages (stream, sequence, payload) VALUES (?1, ?2, ?3)")?
        .execute((stream, sequence, payload.as_ref()))?;
    if let Some(id) = id {
        connection
            .prepare_cached("INSERT INTO message_ids (stream, id, sequence) VALUES (?1, ?2, ?3)")?
            .execute((stream, id, sequence))?;
    }
    Ok(sequence)
}

pub(super) fn subscribe(
    connection: &Connection,
    stream: &str,
    name: &str,
) -> rusqlite::Result<u64> {
    let found = connection
        .prepare_cached("SELECT acknowledged FROM cursors WHERE stream = ?1 AND name = ?2")?
        .query_row((stream, name), |row| row.get(0))
        .optional()?;
    if let Some(acknowledged) = found {
        return Ok(acknowledged);
    }
    let (first, _) = bounds(connection, stream)?;
    set_cursor(connection, stream, name, first - 1)?;
    Ok(first - 1)
}

/// The inner error is the stream's last sequence number, when it has not come as far.
pub(super) fn acknowledge(
    connection: &Connection,
    stream: &str,
    name: &str,
    sequence: u64,
) -> rusqlite::Result<Result<(), u64>> {
    let (_, last) = bounds(connection, stream)?;
    if sequence > last {
        return Ok(Err(last));
    }
    set_cursor(connection, stream, name, sequence)?;
    Ok(Ok(()))
}

fn set_cursor(
    connection: &Connection,
    stream: &str,
    name: &str,
    sequence: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO cursors (stream, name, acknowledged) VALUES (?1, ?2, ?3)
             ON CONFLICT (stream, name) DO UPDATE SET acknowledged = max(acknowledged, ?3)",
        )?
        .execute((stream, name, sequence))?;
    Ok(())
}

pub(super) fn trim(connection: &Connection, stream: &str, sequence: u64) -> rusqlite::Result<()> {
    let (first, last) = bounds(connection, stream)?;
    let sequence = sequence.min(last + 1);
    if sequence <= first {
        return Ok(());
    }
    connection
        .prepare_cached("UPDATE streams SET first = ?2 WHERE stream = ?1")?
        .execute((stream, sequence))?;
    connection
        .prepare_cached("DELETE FROM messages WHERE stream = ?1 AND sequence < ?2")?
        .execute((stream, sequence))?;
    connection
        .prepare_cached("DELETE FROM message_ids WHERE stream = ?1 AND sequence < ?2")?
        .execute((stream, sequence.min((last + 1).saturating_sub(MESSAGE_IDS))))?;
    Ok(())
}

/// What a consumer that has seen everything up to `position` gets next: at most `limit` messages,
/// or so many that they hold `bytes`, and a [`Message::Gap`] wherever numbers are missing.
pub(super) fn read(
    connection: &Connection,
    stream: &str,
    mut position: u64,
    limit: usize,
    bytes: usize,
) -> rusqlite::Result<Vec<Message>> {
    // One snapshot, so that a trim in between can't hide a gap.
    let transaction = connection.unchecked_transaction()?;
    let (_, last) = bounds(&transaction, stream)?;
    let mut messages = Vec::new();
    let mut statement = transaction.prepare_cached(
        "SELECT sequence, payload FROM messages WHERE stream = ?1 AND sequence > ?2
         ORDER BY sequence",
    )?;
    let mut rows = statement.query((stream, position))?;
    let mut size = 0;
    while messages.len() < limit && size < bytes {
        let Some(row) = rows.next()? else {
            if position < last {
                messages.push(Message::Gap { first_available: last + 1 });
            }
            break;
        };
        let sequence = row.get(0)?;
        if sequence > position + 1 {
            messages.push(Message::Gap { first_available: sequence });
        }
        let payload = Bytes::from(row.get::<_, Vec<u8>>(1)?);
        size += payload.len();
        messages.push(Message::Data { sequence, payload });
        position = sequence;
    }
    Ok(messages)
}
