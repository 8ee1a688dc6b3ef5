//! Session tickets (RFC 5077, and RFC 8446, section 4.6.1) that any site with the same keys reads:
//! AES-256-GCM with a random nonce under a named key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Asked;
use crate::Snapshot;

/// How long a proxy encrypts with a key of its own; it decrypts with it for as long again.
const ROTATE: Duration = Duration::from_secs(6 * 60 * 60);
/// What clients are told of a ticket's life, in seconds.
const LIFETIME: u32 = 12 * 60 * 60;
const NAME_LEN: usize = 16;

/// A key of session tickets. Its secret is 32 random bytes that nobody but the sites has.
#[derive(Clone)]
pub struct TicketKey(Arc<Inner>);

struct Inner {
    /// Stands before a ticket in the clear.
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

/// The system's cryptography makes no key.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a ticket key can't be made")]
pub struct TicketKeyError;

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({})", hex::encode(self.0.name))
    }
}

impl TicketKey {
    /// Makes a key of its secret.
    ///
    /// # Errors
    /// When the system's cryptography fails.
    pub fn new(secret: &[u8; 32]) -> Result<Self, TicketKeyError> {
        let derive =
            |label: &[u8]| Sha256::new().chain_update(label).chain_update(secret).finalize();
        let key = RandomizedNonceKey::new(&AES_256_GCM, &derive(b"selvedge ticket encryption\0"));
        let key = key.map_err(|_| TicketKeyError)?;
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(derive(b"selvedge ticket name\0").get(..NAME_LEN).unwrap_or(&[0; 16]));
        Ok(Self(Arc::new(Inner { name, key })))
    }

    fn random() -> Option<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).ok()?;
        Self::new(&secret).ok()
    }

    fn encrypt(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.0.key.seal_in_place_append_tag(Aad::from(context), &mut sealed).ok()?;
        Some([&self.0.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, context: &[u8], nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::from(&nonce);
        let plain = self.0.key.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?;
        let length = plain.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

/// Keys that a proxy makes for itself: at most two, the one in use first.
#[derive(Default)]
pub(super) struct OwnKeys(Mutex<Option<(Instant, Vec<TicketKey>)>>);

impl OwnKeys {
    fn with<T>(&self, work: impl FnOnce(&[TicketKey]) -> Option<T>) -> Option<T> {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = match own.take() {
            Some((since, keys)) if now - since < ROTATE => {
                return work(&own.insert((since, keys)).1);
            }
            // What is this old decrypts nothing any more.
            Some((since, _)) if now - since >= 2 * ROTATE => None,
            old => old.and_then(|(_, keys)| keys.into_iter().next()),
        };
        let keys = TicketKey::random().into_iter().chain(old).collect();
        work(&own.insert((now, keys)).1)
    }
}

/// Makes and reads tickets with the snapshot's keys, or the proxy's own.
pub(super) struct Tickets {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    own: Arc<OwnKeys>,
    /// What makes the context: tickets of another one are not read.
    asked: Arc<Asked>,
}

impl Tickets {
    pub(super) fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        own: Arc<OwnKeys>,
        asked: Arc<Asked>,
    ) -> Self {
        Self { snapshot, own, asked }
    }

    fn with_keys<T>(&self, work: impl FnOnce(&[TicketKey]) -> Option<T>) -> Option<T> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        match &snapshot.tls.ticket_keys[..] {
            [] => self.own.with(work),
            keys => work(keys),
        }
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.with_keys(|keys| keys.first()?.encrypt(&self.asked.digest(), plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.with_keys(|keys| {
            let key = keys.iter().find(|key| key.0.name == *name)?;
            key.decrypt(&self.asked.digest(), *nonce, sealed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn own_keys_are_changed_and_forgotten() {
        let own = OwnKeys::default();
        let seal = || own.with(|keys| Some((keys[0].0.name, keys.len())));
        let (first, count) = seal().unwrap();
        assert_eq!(count, 1);
        tokio::time::advance(ROTATE - Duration::from_secs(1)).await;
        assert_eq!(seal().unwrap(), (first, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        let (second, count) = seal().unwrap();
        assert!(second != first && count == 2);
        tokio::time::advance(ROTATE).await;
        let names = own.with(|keys| Some(keys.iter().map(|key| key.0.name).collect::<Vec<_>>()));
        assert!(names.as_ref().unwrap().contains(&second) && !names.unwrap().contains(&first));
        // A proxy that has had no client for long.
        tokio::time::advance(2 * ROTATE).await;
        assert_eq!(seal().unwrap().1, 1);
    }

    #[test]
    fn a_ticket_is_read_by_its_key_and_context_alone() {
        let key = TicketKey::new(&[7; 32]).unwrap();
        let same = TicketKey::new(&[7; 32]).unwrap();
        let other = TicketKey::new(&[8; 32]).unwrap();
        assert_eq!(key.0.name, same.0.name);
        assert_ne!(key.0.name, other.0.name);
        let ticket = key.encrypt(b"context", b"session").unwrap();
        let (nonce, sealed) = ticket[NAME_LEN..].split_first_chunk::<NONCE_LEN>().unwrap();
        assert_eq!(same.decrypt(b"context", *nonce, sealed).unwrap(), b"session");
        assert!(same.decrypt(b"", *nonce, sealed).is_none());
        assert!(other.decrypt(b"context", *nonce, sealed).is_none());
        for index in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[index] ^= 1;
            assert!(same.decrypt(b"context", *nonce, &forged).is_none());
        }
    }
}
