//! `selvedge apps rm`: a commit in which an app's directory has no `selvedge.toml` any more. It goes
//! through the pipeline like any push, which takes the app down. The app's own files stay, so that
//! `git revert` is all that brings it back.

use selvedge_fabric::FabricError;
use selvedge_model::documents::{AppRecord, PushCause};
use selvedge_model::{AppName, EnvironmentName, RepositoryName, keys, manifest};

use super::{Handle, SubmitError, Ticket};
use crate::git::GitError;

/// Why an app can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// There is no such app.
    #[error("there is no app {0}")]
    NoApp(AppName),
    /// Nothing of it is live.
    #[error("{0} is not live, so there is nothing to remove")]
    NotLive(AppName),
    /// The repository does not have it where it should be.
    #[error("main of {repository} has no {path}; see `selvedge apps`, and try again")]
    NotThere {
        /// The repository.
        repository: RepositoryName,
        /// The file that was looked for.
        path: String,
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
    /// Takes `app` out of its repository and down at every site.
    pub async fn remove(&self, app: &AppName) -> Result<(RepositoryName, Ticket), RemovalError> {
        let store = &self.shared.store;
        let record: Option<AppRecord> =
            store.get(&keys::app(app)).await.map_err(RemovalError::Fabric)?;
        let record = record.ok_or_else(|| RemovalError::NoApp(app.clone()))?;
        let activation = keys::activation(app, &EnvironmentName::production());
        let live = store.0.get(&activation).await.map_err(RemovalError::Fabric)?.is_some();
        if !live && record.history.is_empty() {
            return Err(RemovalError::NotLive(app.clone()));
        }
        let repository = self.shared.git.repository(&record.repository);
        let path = manifest::path_in(&record.directory);
        let not_there =
            || RemovalError::NotThere { repository: record.repository.clone(), path: path.clone() };
        let main = repository.main().await.map_err(RemovalError::Git)?.ok_or_else(not_there)?;
        let tree = repository.without(&main, &path).await.map_err(RemovalError::Git)?;
        let tree = tree.ok_or_else(not_there)?;
        let message = format!(
            "Remove the app {app}\n\nIts files stay; reverting this commit brings it back.\n"
        );
        let commit = repository.commit(&tree, &main, &message).await;
        let commit = commit.map_err(RemovalError::Git)?;
        let cause = PushCause::Removal { app: app.clone() };
        let ticket = self.submit(&record.repository, cause, Some(main), commit).await;
        Ok((record.repository, ticket.map_err(RemovalError::Submit)?))
    }
}
