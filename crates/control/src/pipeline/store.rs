//! Documents by type.

use selvedge_fabric::{Expect, FabricError, SharedFabric, Step, Typed, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The fabric, as the pipeline uses it.
#[derive(Clone)]
pub(super) struct Store(pub(super) SharedFabric);

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
        Typed(&*self.0).put(key, value, Expect::Any).await?;
        Ok(())
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
        Ok(self.0.delete(key, Expect::Any).await?)
    }

    /// See [`Typed::update`].
    pub(super) async fn update<T, R>(
        &self,
        key: &str,
        change: impl FnMut(Option<T>) -> (Step<T>, R) + Send,
    ) -> Result<R, FabricError>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        R: Send,
    {
        Typed(&*self.0).update(key, change).await
    }
}
