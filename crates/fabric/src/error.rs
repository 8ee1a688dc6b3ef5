//! What can go wrong at the fabric.

use selvedge_model::{Digest, Generation};

/// A failed read, publication or lease.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The store can't be reached; what was asked may or may not have happened.
    #[error("the fabric can't be reached")]
    Unreachable(#[source] std::io::Error),
    /// The request breaks a limit or a rule of the contract.
    #[error("the fabric refused the request: {0}")]
    Invalid(String),
    /// The store failed.
    #[error("the fabric's store failed: {0}")]
    Store(String),
    /// No such blob.
    #[error("blob {} is not stored", .0.short())]
    NoSuchBlob(Digest),
    /// A blob's content does not have its digest.
    #[error("blob {} is damaged", .0.short())]
    Damaged(Digest),
    /// Reading or writing a local file failed.
    #[error("local file")]
    File(#[source] std::io::Error),
    /// A document is not of the type that its key promises.
    #[error("document {key} can't be read")]
    Document {
        /// Where.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A failed write of a document.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The document is not at the generation that the writer expected.
    #[error("document {key} has changed meanwhile")]
    Conflict {
        /// Where.
        key: String,
        /// What it is at; `None` when it is absent.
        current: Option<Generation>,
    },
    /// Anything else.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

/// For writers who expect nothing, to whom a conflict is a defect of the store.
impl From<WriteError> for FabricError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fabric(error) => error,
            conflict @ WriteError::Conflict { .. } => Self::Store(conflict.to_string()),
        }
    }
}
