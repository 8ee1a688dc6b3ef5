//! Control's end of the hook: a Unix socket that only control's own user may use.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use selvedge_api::PushEvent;
use selvedge_model::{PushState, RepositoryName};
use selvedge_telemetry::Chain;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{MAX_MESSAGE, MAX_UPDATES, Question, Update, Verdict, Word};
use crate::git::{MAIN, Oid};
use crate::pipeline::{Handle, render, verdict_of};

/// Hooks at once.
const CONCURRENT: usize = 256;
/// How long a hook may take to ask.
const ASKING: Duration = Duration::from_secs(10);

/// Binds the socket with mode 0600, in the place of one that a dead control has left.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers hooks for ever.
pub(crate) async fn run(listener: UnixListener, pipeline: Handle) {
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pipeline = pipeline.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &pipeline).await {
                        tracing::warn!(%error, "a git hook was not answered to the end");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::error!(%error, "git's hooks can't be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, pipeline: &Handle) -> io::Result<()> {
    if stream.peer_cred()?.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "asked by another user"));
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader).take(MAX_MESSAGE as u64);
    tokio::time::timeout(ASKING, reader.read_line(&mut line)).await??;
    let question: Question = serde_json::from_str(&line)?;
    if question.updates.len() > MAX_UPDATES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many refs in one push"));
    }
    let mut verdicts = Vec::with_capacity(question.updates.len());
    for update in &question.updates {
        verdicts.push(match judge(update) {
            Judgement::Decided(verdict) => verdict,
            Judgement::Release { old, new } => {
                release(pipeline, &question.repository, old, new, &mut writer).await?
            }
        });
    }
    say(&mut writer, &Word::Verdicts { verdicts }).await
}

/// What is to be done about a ref.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Decided(Verdict),
    Release { old: Option<Oid>, new: Oid },
}

fn judge(update: &Update) -> Judgement {
    let refused = |reason: String| Judgement::Decided(Verdict::Refused { reason });
    let ids = (Oid::parse_or_zero(&update.old), Oid::parse_or_zero(&update.new));
    let (Ok(old), Ok(new)) = ids else {
        return refused("git sent something that is no object id".to_owned());
    };
    match (update.name.as_str(), new) {
        (MAIN, Some(new)) => Judgement::Release { old, new },
        (MAIN, None) => refused(
            "main is what is live and can't be deleted; to take an app down, run selvedge apps rm APP"
                .to_owned(),
        ),
        (name, Some(_)) if name.starts_with("refs/tags/") => Judgement::Decided(Verdict::Leave),
        (name, _) => match name.strip_prefix("refs/heads/") {
            Some(branch) => {
                refused(format!("only main is released for now: git push origin {branch}:main"))
            }
            None => refused("only main and tags can be pushed".to_owned()),
        },
    }
}

/// Has the pipeline release a commit, and tells the pusher how that goes. A pusher who hangs up
/// hears no more, and the push goes on.
async fn release(
    pipeline: &Handle,
    repository: &RepositoryName,
    old: Option<Oid>,
    new: Oid,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Verdict> {
    let mut ticket = match pipeline.push(repository, old, new).await {
        Ok(ticket) => ticket,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), %repository, "a push was not taken in");
            return Ok(Verdict::Refused { reason: error.to_string() });
        }
    };
    let text = format!("selvedge: push {} to {repository}", ticket.number);
    say(writer, &Word::Progress { text }).await?;
    let mut verdict = Verdict::Refused { reason: "control is stopping".to_owned() };
    while let Some(event) = ticket.progress.next().await {
        for text in render(&event) {
            say(writer, &Word::Progress { text }).await?;
        }
        if let PushEvent::Done { push } = event {
            verdict = match &push.state {
                PushState::Live => Verdict::Moved,
                PushState::Refused(failure) | PushState::RolledBack(failure) => {
                    Verdict::Refused { reason: verdict_of(failure) }
                }
                _ => Verdict::Refused { reason: "it is not done; see selvedge releases".into() },
            };
        }
    }
    Ok(verdict)
}

async fn say(writer: &mut OwnedWriteHalf, word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, new: &str) -> Judgement {
        let update = Update { old: "0".repeat(40), new: new.repeat(40), name: name.to_owned() };
        judge(&update)
    }

    #[test]
    fn main_is_released_and_other_branches_are_told_how() {
        assert!(matches!(judged(MAIN, "a"), Judgement::Release { old: None, .. }));
        assert_eq!(judged("refs/tags/v1", "a"), Judgement::Decided(Verdict::Leave));
        for (name, new, words) in [
            ("refs/heads/topic", "a", "git push origin topic:main"),
            ("refs/heads/topic", "0", "git push origin topic:main"),
            (MAIN, "0", "can't be deleted"),
            ("refs/tags/v1", "0", "only main and tags"),
            ("refs/notes/x", "a", "only main and tags"),
            (MAIN, "z", "no object id"),
        ] {
            let Judgement::Decided(Verdict::Refused { reason }) = judged(name, new) else {
                panic!("{name} is not refused");
            };
            assert!(reason.contains(words), "{reason}");
        }
    }
}
