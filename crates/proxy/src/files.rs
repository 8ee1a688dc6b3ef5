//! Static sites: an index of an unpacked artifact, and the answers made from it.
//!
//! The index is made once; a request looks up a name in it and never builds a path, so nothing
//! outside the artifact can be reached. Every answer says `cache-control: public, max-age=0,
//! must-revalidate`: a deploy must show at once, and the strong `etag` (a digest of the content)
//! makes asking again cheap. Routes can replace it.

mod answer;
mod index;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

pub(crate) use answer::{Content, FileBody, NoContent};

/// The files of a static service.
///
/// Left out are names that start with a dot (but `.well-known` at the top), whatever is no regular
/// file, and symbolic links that lead outside or to something left out.
#[derive(Debug)]
pub struct StaticSite {
    names: HashMap<Box<str>, Found>,
    not_found: Option<Arc<FileEntry>>,
}

/// What a request path leads to.
#[derive(Debug, Clone)]
enum Found {
    File(Arc<FileEntry>),
    /// A directory without its trailing slash.
    Directory,
}

/// A file of a site.
#[derive(Debug)]
pub(crate) struct FileEntry {
    path: PathBuf,
    size: u64,
    etag: HeaderValue,
    mime: HeaderValue,
    /// The content, when it is small.
    memory: Option<Bytes>,
}

impl StaticSite {
    /// Indexes the directory, reading every file once. Blocking: call it off the event loop.
    ///
    /// # Errors
    /// When something can't be read, or the directory holds more than 200,000 files.
    pub fn load(root: &Path) -> std::io::Result<Self> {
        index::load(root)
    }
}
