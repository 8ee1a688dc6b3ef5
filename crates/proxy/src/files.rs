//! Static sites: an index of an unpacked artifact, and the answers made from it.

use std::path::Path;

/// The files of a static service, indexed once; requests look up names in the index and never
/// build paths, so that nothing outside the artifact can be reached.
#[derive(Debug)]
pub struct StaticSite {
    _private: (),
}

impl StaticSite {
    /// Indexes the directory. Blocking: call it off the event loop.
    pub fn load(_root: &Path) -> std::io::Result<Self> {
        Ok(Self { _private: () })
    }
}
