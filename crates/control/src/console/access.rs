//! Who may see the console: one-time codes, which only a holder of the operator's token can get,
//! and the sessions that they open.
//!
//! Nothing that is kept opens anything. A code or session is known by its HMAC under the operator's
//! token, in memory, and sessions in a private file too, so that a restarted control does not sign
//! everybody out. A new token is a new key: it ends every session and needs no code to do so.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use selvedge_api::Token;
use selvedge_telemetry::Chain;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::data::{DataError, random, read_small, write_private};

/// How long a one-time code can be used.
pub(crate) const CODE_LIFE: Duration = Duration::from_secs(5 * 60);
/// Codes that wait to be used. With one more, the oldest is void.
const MAX_CODES: usize = 8;
/// How long a session lasts, whether it is used or not.
pub(crate) const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions at a time. With one more, the oldest ends.
const MAX_SESSIONS: usize = 32;
/// Random bytes in a code or a session.
const LEN: usize = 32;
/// Wrong codes in a row after which further ones are told to wait. A right code is taken at any
/// time: whoever sends wrong ones must not keep its holder out, and can't guess one in any time.
const FAILURES: u32 = 10;
/// After this, one more wrong code is called wrong.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);

/// An HMAC in hexadecimal.
type Tag = String;

/// Codes and sessions. See the module.
pub(crate) struct Access {
    key: Token,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    codes: VecDeque<(Tag, Instant)>,
    sessions: VecDeque<Session>,
    failures: u32,
    last_failure: Option<Instant>,
}

/// A session as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    tag: Tag,
    /// Unix milliseconds.
    expires_ms: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    sessions: VecDeque<Session>,
}

/// A session that was just opened; the browser alone has it.
pub(crate) struct Opened(pub(crate) String);

/// Why a code opens nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is wrong, was used, or is too old.
    Void,
    /// Too many wrong ones came.
    TooMany,
    /// The machine gives no random numbers.
    Failed,
}

impl Access {
    /// Reads the sessions kept at `path`. A file that can't be read is as good as none: it costs
    /// people a sign-in.
    pub(crate) fn load(key: Token, path: PathBuf) -> Self {
        let kept = match read_small(&path) {
            Ok(None) => Kept::default(),
            Ok(Some(text)) => serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, "the console's sessions can't be read; they end");
                Kept::default()
            }),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the console's sessions can't be read; they end");
                Kept::default()
            }
        };
        let mut inner = Inner { sessions: kept.sessions, ..Inner::default() };
        inner.sessions.truncate(MAX_SESSIONS);
        Self { key, path, inner: Mutex::new(inner) }
    }

    /// A new one-time code.
    pub(crate) fn new_code(&self, now: Instant) -> Result<String, DataError> {
        let code = URL_SAFE_NO_PAD.encode(random::<LEN>()?);
        let tag = self.tag("code", &code);
        let mut inner = self.lock();
        while inner.codes.len() >= MAX_CODES {
            inner.codes.pop_front();
        }
        inner.codes.push_back((tag, now + CODE_LIFE));
        Ok(code)
    }

    /// Opens a session with a code, which is void afterwards. Writes a file.
    pub(crate) fn redeem(&self, code: &str, now: Instant, now_ms: u64) -> Result<Opened, Refusal> {
        let tag = self.tag("code", code);
        let kept = {
            let mut inner = self.lock();
            inner.codes.retain(|(_, ends)| *ends > now);
            let before = inner.codes.len();
            inner.codes.retain(|(known, _)| !same(known, &tag));
            if inner.codes.len() == before {
                return Err(inner.wrong(now));
            }
            let secret = URL_SAFE_NO_PAD.encode(random::<LEN>().map_err(|_| Refusal::Failed)?);
            inner.sessions.retain(|session| session.expires_ms > now_ms);
            while inner.sessions.len() >= MAX_SESSIONS {
                inner.sessions.pop_front();
            }
            let expires_ms = now_ms.saturating_add(SESSION_LIFE.as_millis() as u64);
            inner.sessions.push_back(Session { tag: self.tag("session", &secret), expires_ms });
            (secret, inner.sessions.clone())
        };
        self.keep(kept.1);
        Ok(Opened(kept.0))
    }

    /// Whether `secret` is a session that has not ended.
    pub(crate) fn is_open(&self, secret: &str, now_ms: u64) -> bool {
        let tag = self.tag("session", secret);
        let inner = self.lock();
        inner.sessions.iter().any(|session| session.expires_ms > now_ms && same(&session.tag, &tag))
    }

    /// Ends a session. Writes a file.
    pub(crate) fn end(&self, secret: &str) {
        let tag = self.tag("session", secret);
        let kept = {
            let mut inner = self.lock();
            inner.sessions.retain(|session| !same(&session.tag, &tag));
            inner.sessions.clone()
        };
        self.keep(kept);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Whole after every statement, so that a panic elsewhere can't have torn it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, what: &str, secret: &str) -> Tag {
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.0.as_bytes()) else {
            return Tag::default();
        };
        mac.update(b"selvedge console ");
        mac.update(what.as_bytes());
        mac.update(b"\0");
        mac.update(secret.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn keep(&self, sessions: VecDeque<Session>) {
        let text = serde_json::to_vec(&Kept { sessions }).unwrap_or_default();
        if let Err(error) = write_private(&self.path, &text) {
            tracing::warn!(
                error = %Chain(&error),
                "the console's sessions can't be kept; they end when control does"
            );
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

impl Inner {
    /// What whoever sends a wrong code is told.
    fn wrong(&mut self, now: Instant) -> Refusal {
        if let Some(last) = self.last_failure {
            let forgiven =
                now.saturating_duration_since(last).as_millis() / FAILURE_PAUSE.as_millis();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            if forgiven > 0 {
                self.failures = self.failures.saturating_sub(forgiven);
                self.last_failure = Some(now);
            }
        }
        if self.failures >= FAILURES {
            return Refusal::TooMany;
        }
        self.failures += 1;
        self.last_failure = Some(now);
        Refusal::Void
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn access(token: &str, directory: &tempfile::TempDir) -> Access {
        Access::load(Token(token.to_owned()), directory.path().join("console.json"))
    }

    #[test]
    fn a_code_opens_one_session_and_the_file_opens_none() {
        let directory = tempfile::tempdir().unwrap();
        let (one, now) = (access("t", &directory), Instant::now());
        let code = one.new_code(now).unwrap();
        let session = one.redeem(&code, now, 0).unwrap().0;
        assert_eq!(one.redeem(&code, now, 0).err(), Some(Refusal::Void));
        assert!(one.is_open(&session, 0) && !one.is_open(&code, 0) && !one.is_open("", 0));
        let path = directory.path().join("console.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(&session) && !kept.contains(&code));
        let tag = kept.split('"').nth(5).unwrap();
        assert!(tag.len() == 64 && !one.is_open(tag, 0));
        // A restart changes nothing, a new token everything.
        assert!(access("t", &directory).is_open(&session, 0));
        assert!(!access("u", &directory).is_open(&session, 0));
        one.end(&session);
        assert!(!one.is_open(&session, 0) && !access("t", &directory).is_open(&session, 0));
        std::fs::write(&path, "{").unwrap();
        assert!(!access("t", &directory).is_open(&session, 0));
    }

    #[test]
    fn both_end_with_time_and_are_few() {
        let directory = tempfile::tempdir().unwrap();
        let (access, now) = (access("t", &directory), Instant::now());
        let code = access.new_code(now).unwrap();
        assert_eq!(access.redeem(&code, now + CODE_LIFE, 0).err(), Some(Refusal::Void));
        let first = access.new_code(now).unwrap();
        for _ in 0..MAX_CODES {
            access.new_code(now).unwrap();
        }
        assert_eq!(access.redeem(&first, now, 0).err(), Some(Refusal::Void));
        let open = || {
            let code = access.new_code(now).unwrap();
            access.redeem(&code, now, 0).unwrap().0
        };
        let session = open();
        let life = SESSION_LIFE.as_millis() as u64;
        assert!(access.is_open(&session, life - 1) && !access.is_open(&session, life));
        for _ in 0..MAX_SESSIONS {
            open();
        }
        assert!(!access.is_open(&session, 0));
    }

    #[test]
    fn guessing_has_to_wait_and_the_right_code_has_not() {
        let directory = tempfile::tempdir().unwrap();
        let (access, now) = (access("t", &directory), Instant::now());
        for _ in 0..FAILURES {
            assert_eq!(access.redeem("guess", now, 0).err(), Some(Refusal::Void));
        }
        let code = access.new_code(now).unwrap();
        assert_eq!(access.redeem("guess", now, 0).err(), Some(Refusal::TooMany));
        assert!(access.redeem(&code, now, 0).is_ok());
        assert_eq!(access.redeem(&code, now, 0).err(), Some(Refusal::TooMany), "it is void now");
        let later = now + FAILURE_PAUSE;
        assert_eq!(access.redeem("guess", later, 0).err(), Some(Refusal::Void));
        assert_eq!(access.redeem("guess", later, 0).err(), Some(Refusal::TooMany));
    }
}
