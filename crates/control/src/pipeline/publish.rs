//! The *publish* stage: artifacts become blobs, and the release a document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selvedge_fabric::artifact::{self, ArtifactError};
use selvedge_model::{AppName, Artifact, Release, ReleaseId, Service, ServiceKind, Stage, keys};

use super::Shared;
use super::receive::{Candidate, Work};
use super::run::{Refusal, Run, broken};
use crate::now_ms;

impl Run {
    /// Stores what was built.
    pub(super) async fn publish(&mut self, candidates: &[Candidate]) -> Result<(), Refusal> {
        self.begin(Stage::Publish).await?;
        let mut size = 0;
        let fresh: Vec<_> = candidates.iter().filter(|it| it.work == Work::Build).collect();
        for candidate in &fresh {
            size += self.publish_one(candidate).await?;
        }
        self.end(Some(if fresh.is_empty() { "stored before".to_owned() } else { amount(size) }));
        Ok(())
    }

    async fn publish_one(&self, candidate: &Candidate) -> Result<u64, Refusal> {
        let shared = &self.shared;
        // Between the first blob and the document that names it, nothing may be collected.
        let _collecting_waits = shared.collecting.read().await;
        let checkout = self.checkout(candidate);
        let mut packed: BTreeMap<PathBuf, Artifact> = BTreeMap::new();
        let mut artifacts = BTreeMap::new();
        for service in &candidate.app.services {
            if matches!(service.kind, ServiceKind::Upstream { .. }) {
                continue;
            }
            let directory = directory(&checkout, service)?;
            let artifact = match packed.get(&directory) {
                Some(artifact) => artifact.clone(),
                None => self.pack(&directory, candidate, service).await?,
            };
            packed.insert(directory, artifact.clone());
            artifacts.insert(service.name.clone(), artifact);
        }
        let size = packed.values().map(|artifact| artifact.size).sum();
        let commit = self.new_commit()?;
        let release = Release {
            id: candidate.release,
            app: candidate.app.clone(),
            repository: self.push.repository.clone(),
            directory: candidate.directory.clone(),
            commit: commit.to_string(),
            tree: candidate.tree.to_string(),
            subject: self.repository.subject(&commit).await.map_err(broken("read the commit"))?,
            created_ms: now_ms(),
            artifacts,
        };
        let key = keys::release(&candidate.app.name, &candidate.release);
        shared.store.put(&key, &release).await.map_err(broken("store the release"))?;
        Ok(size)
    }

    async fn pack(
        &self,
        directory: &Path,
        candidate: &Candidate,
        service: &Service,
    ) -> Result<Artifact, Refusal> {
        let archive = self.work().join(format!("{}-{}.tar", candidate.app.name, service.name));
        let (from, to) = (directory.to_owned(), archive.clone());
        let limits = self.shared.limits.artifact;
        let packing = tokio::task::spawn_blocking(move || artifact::pack(&from, &to, limits));
        let size = match packing.await.map_err(broken("pack the service's files"))? {
            Ok(size) => size,
            Err(error @ (ArtifactError::TooMany(_) | ArtifactError::TooLarge(_))) => {
                return Err(Refusal::new(format!(
                    "service {} can't be shipped: {error}; leave out what it does not need to run",
                    service.name
                )));
            }
            Err(error) => return Err(broken("pack the service's files")(error)),
        };
        let digest = self.shared.store.0.put_blob(&archive).await;
        Ok(Artifact { digest: digest.map_err(broken("store the service's files"))?, size })
    }
}

/// A number of bytes for people.
fn amount(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

/// The directory that a service ships: the root of a static one, else all of the app.
fn directory(checkout: &Path, service: &Service) -> Result<PathBuf, Refusal> {
    let ServiceKind::Static { root, fallback } = &service.kind else {
        return Ok(checkout.to_owned());
    };
    let place = checkout.join(root);
    let missing = || {
        Refusal::new(format!(
            "service {}: after the build there is no directory {root}; check `root`, and what the build makes",
            service.name
        ))
    };
    // A link must not lead out of the app: the files are read by control, which sees everything.
    let real = place.canonicalize().map_err(|_| missing())?;
    let top = checkout.canonicalize().map_err(broken("find the checkout"))?;
    if !real.starts_with(&top) {
        return Err(Refusal::new(format!(
            "service {}: `root` {root} is a link that leads out of the app",
            service.name
        )));
    }
    if !real.is_dir() {
        return Err(missing());
    }
    if let Some(fallback) = fallback.as_ref().filter(|it| !real.join(it).is_file()) {
        return Err(Refusal::new(format!(
            "service {}: after the build there is no file {fallback} in {root}; check `fallback`, and what the build makes",
            service.name
        )));
    }
    Ok(real)
}

/// A release that is stored with all of its blobs.
pub(super) async fn stored(
    shared: &Shared,
    app: &AppName,
    id: &ReleaseId,
) -> Result<Option<Release>, Refusal> {
    let failed = "look for the release";
    let release: Option<Release> =
        shared.store.get(&keys::release(app, id)).await.map_err(broken(failed))?;
    let Some(release) = release else { return Ok(None) };
    for artifact in release.artifacts.values() {
        if !shared.store.0.has_blob(&artifact.digest).await.map_err(broken(failed))? {
            return Ok(None);
        }
    }
    Ok(Some(release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(amount(1), "1 KiB");
        assert_eq!(amount(5 << 10), "5 KiB");
        assert_eq!(amount((3 << 20) + (1 << 19)), "3.5 MiB");
    }
}
