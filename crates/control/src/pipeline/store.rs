//! Documents by type, and changes that hold whoever else writes.

use selvedge_fabric::{Expect, FabricError, SharedFabric, Typed, WriteError};
use selvedge_model::Generation;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Attempts at a change before it is given up; each lost attempt is another writer's success.
const ATTEMPTS: u32 = 100;

/// The fabric, as the pipeline uses it.
#[derive(Clone)]
pub(super) struct Store(pub(super) SharedFabric);

/// What becomes of a document.
pub(super) enum Step<T> {
    /// It stays as it is.
    Keep,
    /// It is written.
    Put(T),
    /// It is deleted.
    Delete,
}

impl Store {
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<T>, FabricError> {
        Ok(Typed(&*self.0).get(key).await?.map(|(_, value)| value))
    }

    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, FabricError> {
        let listed = Typed(&*self.0).list(prefix).await?;
        Ok(listed.into_iter().map(|(key, _, value)| (key, value)).collect())
    }

    /// Writes a document that nobody else writes.
    pub(super) async fn put<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<(), FabricError> {
        match Typed(&*self.0).put(key, value, Expect::Any).await {
            Ok(_) => Ok(()),
            Err(WriteError::Fabric(error)) => Err(error),
            Err(conflict) => Err(FabricError::Store(conflict.to_string())),
        }
    }

    /// Writes a document that is absent; says whether it was.
    pub(super) async fn create<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<bool, FabricError> {
        match Typed(&*self.0).put(key, value, Expect::Absent).await {
            Ok(_) => Ok(true),
            Err(WriteError::Conflict { .. }) => Ok(false),
            Err(WriteError::Fabric(error)) => Err(error),
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), FabricError> {
        match self.0.delete(key, Expect::Any).await {
            Ok(()) | Err(WriteError::Conflict { .. }) => Ok(()),
            Err(WriteError::Fabric(error)) => Err(error),
        }
    }

    /// Changes a document by compare-and-set: reads it, asks `change`, and starts over when
    /// somebody else was quicker. What `change` says along with the step is returned.
    pub(super) async fn update<T, R>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> (Step<T>, R) + Send,
    ) -> Result<R, FabricError>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        R: Send,
    {
        for _ in 0..ATTEMPTS {
            let standing: Option<(Generation, T)> = Typed(&*self.0).get(key).await?;
            let (expect, value) = match standing {
                Some((generation, value)) => (Expect::Generation(generation), Some(value)),
                None => (Expect::Absent, None),
            };
            let absent = value.is_none();
            let (step, result) = change(value);
            let written = match step {
                Step::Keep => return Ok(result),
                Step::Delete if absent => return Ok(result),
                Step::Put(value) => Typed(&*self.0).put(key, &value, expect).await.map(drop),
                Step::Delete => self.0.delete(key, expect).await,
            };
            match written {
                Ok(()) => return Ok(result),
                Err(WriteError::Conflict { .. }) => {}
                Err(WriteError::Fabric(error)) => return Err(error),
            }
        }
        Err(FabricError::Store(format!("document {key} never stops changing")))
    }
}
