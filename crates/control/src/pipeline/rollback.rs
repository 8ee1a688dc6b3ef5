//! `selvedge rollback`: a commit in which an app's directory is an earlier release's. It goes
//! through the pipeline like any push; nothing is rebuilt, because the release is known.

use selvedge_fabric::FabricError;
use selvedge_model::documents::{AppRecord, HistoryEntry, PushCause};
use selvedge_model::{AppName, Release, RepositoryName, keys};

use super::{Handle, SubmitError, Ticket};
use crate::git::GitError;

/// The least digits that name a release.
const MIN_DIGITS: usize = 4;

/// Why an app can't be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There is no such app.
    #[error("there is no app {0}")]
    NoApp(AppName),
    /// There is nothing to go back to.
    #[error("{app} has no earlier release")]
    NoEarlier {
        /// The app.
        app: AppName,
    },
    /// The release that was named is not kept, or several are meant.
    #[error("{problem}")]
    NotOne {
        /// What is wrong with what was asked for.
        problem: String,
        /// Every kept release, newest first.
        kept: Vec<String>,
    },
    /// The release is live.
    #[error("{release} of {app} is live already")]
    Live {
        /// The app.
        app: AppName,
        /// The release.
        release: String,
    },
    /// The fabric failed.
    #[error("the app's records can't be read")]
    Fabric(#[source] FabricError),
    /// git failed.
    #[error("the commit can't be made")]
    Git(#[source] GitError),
    /// The push was not taken in.
    #[error(transparent)]
    Submit(SubmitError),
}

impl Handle {
    /// Makes an earlier release of `app` live again: the one that `wanted` begins, or without it
    /// the one that was live before.
    pub async fn rollback(
        &self,
        app: &AppName,
        wanted: Option<&str>,
    ) -> Result<(RepositoryName, Ticket), RollbackError> {
        let store = &self.shared.store;
        let record: Option<AppRecord> =
            store.get(&keys::app(app)).await.map_err(RollbackError::Fabric)?;
        let record = record.ok_or_else(|| RollbackError::NoApp(app.clone()))?;
        let target = choose(&record, wanted)?.release;
        let release: Option<Release> =
            store.get(&keys::release(app, &target)).await.map_err(RollbackError::Fabric)?;
        let nothing = || RollbackError::NoEarlier { app: app.clone() };
        let release = release.ok_or_else(nothing)?;
        let repository = self.shared.git.repository(&record.repository);
        let main = repository.main().await.map_err(RollbackError::Git)?.ok_or_else(nothing)?;
        let tree = release.tree.parse().map_err(RollbackError::Git)?;
        let grafted = repository.graft(&main, &record.directory, &tree).await;
        let grafted = grafted.map_err(RollbackError::Git)?;
        let message = format!("Roll back {app} to {}\n\n{}\n", target.0.short(), release.subject);
        let commit = repository.commit(&grafted, &main, &message).await;
        let commit = commit.map_err(RollbackError::Git)?;
        let cause = PushCause::Rollback { release: target };
        let ticket = self.submit(&record.repository, cause, Some(main), commit).await;
        Ok((record.repository, ticket.map_err(RollbackError::Submit)?))
    }
}

/// The entry of the history that is meant.
fn choose<'a>(
    record: &'a AppRecord,
    wanted: Option<&str>,
) -> Result<&'a HistoryEntry, RollbackError> {
    let app = &record.app;
    let nothing = || RollbackError::NoEarlier { app: app.clone() };
    let live = record.history.first().ok_or_else(nothing)?;
    let Some(wanted) = wanted else {
        return record.history.iter().find(|it| it.release != live.release).ok_or_else(nothing);
    };
    let mut kept: Vec<&HistoryEntry> = Vec::new();
    for entry in &record.history {
        if kept.iter().all(|it| it.release != entry.release) {
            kept.push(entry);
        }
    }
    let wanted_digits = wanted.to_ascii_lowercase();
    let matching: Vec<_> =
        kept.iter().filter(|it| it.release.0.to_string().starts_with(&wanted_digits)).collect();
    let not_one = |problem: String| RollbackError::NotOne {
        problem,
        kept: kept.iter().map(|it| it.release.0.short()).collect(),
    };
    let shown: String = wanted.chars().take(80).collect();
    if wanted.len() < MIN_DIGITS {
        return Err(not_one(format!("{shown:?} is too short, give {MIN_DIGITS} digits or more")));
    }
    match matching.as_slice() {
        [one] if one.release == live.release => {
            Err(RollbackError::Live { app: app.clone(), release: live.release.0.short() })
        }
        [one] => Ok(one),
        [] => Err(not_one(format!("no kept release of {app} begins with {shown:?}"))),
        _ => Err(not_one(format!("several releases of {app} begin with {shown:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use selvedge_model::{Digest, Epoch, ReleaseId};

    use super::*;

    fn record(releases: &[&[u8]]) -> AppRecord {
        let history = releases.iter().zip((1..=releases.len() as u64).rev());
        AppRecord {
            app: AppName::new("shop").unwrap(),
            repository: RepositoryName::new("shop").unwrap(),
            directory: String::new(),
            last_epoch: Epoch::new(1, 9),
            history: history
                .map(|(release, number)| HistoryEntry {
                    epoch: Epoch::new(1, number),
                    release: ReleaseId(Digest::of(release)),
                    commit: String::new(),
                    push: number,
                    at_ms: 0,
                })
                .collect(),
        }
    }

    #[test]
    fn the_release_before_is_another_one() {
        let record = record(&[b"c", b"c", b"b", b"a"]);
        assert_eq!(choose(&record, None).unwrap().release.0, Digest::of(b"b"));
        let digest = Digest::of(b"a").to_string();
        assert_eq!(choose(&record, Some(&digest[..6])).unwrap().push, 1);
        let live = Digest::of(b"c").short();
        assert!(matches!(choose(&record, Some(&live)), Err(RollbackError::Live { .. })));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let record = record(&[b"b", b"a"]);
        for wanted in ["ffffff", "", "x"] {
            let Err(RollbackError::NotOne { kept, .. }) = choose(&record, Some(wanted)) else {
                panic!("{wanted:?} names a release");
            };
            assert!(kept.contains(&Digest::of(b"a").short()), "{kept:?}");
        }
        let alone = self::record(&[b"a"]);
        assert!(matches!(choose(&alone, None), Err(RollbackError::NoEarlier { .. })));
    }
}
