//! GraphQL requests as keys of a cache: the same question in other words has the same key, and two
//! questions with different answers never have one.
//!
//! [`read`] takes a request's head and body and gives an [`Operation`], whose parts make up the key,
//! or says why the request is not for a cache. Mutations and subscriptions never are, nor is
//! anything that two programs could read differently. [`may_store`] and [`Answer`] judge the
//! response: one with errors is not stored, since errors name places in a query's text, and pass.
//!
//! What is the same (GraphQL, October 2021): white space, commas and comments (section 2.1),
//! the order of arguments (2.6) and of input objects' fields (2.9.8), the order and spelling of
//! members in `variables`. What is not: names, aliases, the order of fields, fragments instead of
//! what they stand for, defaults written out.
//!
//! Deliberately absent: knowledge of a schema, persisted queries, and batches.

mod answer;
mod document;
mod identity;
mod json;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answer, may_store};
pub use identity::Identity;
pub use request::{Operation, is_candidate, read};

/// What is cached.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the answer depends on beside the operation: all of it. Its values are part of the key.
    pub identity: Vec<Identity>,
    /// Whether other cookies do not matter. A request that has one is not cached otherwise.
    pub ignore_other_cookies: bool,
    /// The longest body that is read, in bytes.
    pub max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { identity: Vec::new(), ignore_other_cookies: false, max_bytes: 64 << 10 }
    }
}

/// Why a request is not for a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCacheable {
    /// Neither a `GET` with a query nor a `POST` of JSON or GraphQL in UTF-8, without a coding.
    #[error("it is no GraphQL request that can be read")]
    Format,
    /// The body is longer than [`Config::max_bytes`].
    #[error("its body is too long")]
    TooLong,
    /// The body is no JSON object, or has a member twice or one that GraphQL over HTTP does not
    /// know.
    #[error("its body is no JSON object as GraphQL over HTTP has it")]
    Json,
    /// Several operations at once.
    #[error("it is a batch")]
    Batch,
    /// A parameter twice, or one of a `POST` in the URL, where some servers look first.
    #[error("its parameters can be read in two ways")]
    Ambiguous,
    /// The document is not there: the server is to know it by a digest or name.
    #[error("its query is not in it")]
    NoQuery,
    /// The document can't be parsed, or defines types.
    #[error("its query is no valid document")]
    Document,
    /// The document is nested too deeply, or has too many tokens.
    #[error("its query is too complex")]
    TooComplex,
    /// The document has a mutation, even if another operation is asked for.
    #[error("its document has a mutation")]
    Mutation,
    /// The document has a subscription.
    #[error("its document has a subscription")]
    Subscription,
    /// `operationName` does not name exactly one operation.
    #[error("it does not name one of its operations")]
    OperationName,
    /// `@defer` or `@stream`: the answer comes in several parts.
    #[error("its answer comes in parts")]
    Incremental,
    /// It has credentials or cookies that are not declared to be what the answer depends on.
    #[error("it says who asks in a way that is not declared")]
    Undeclared,
}

impl NotCacheable {
    /// Whether it may change what queries are answered with. What can't be read may.
    pub fn may_change(&self) -> bool {
        !matches!(self, Self::Incremental | Self::Undeclared)
    }
}
