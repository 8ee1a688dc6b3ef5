//! Walking an artifact.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::{FileEntry, Found, StaticSite};

/// Files up to this many bytes are kept in memory.
const SMALL: u64 = 256 << 10;
/// All files of a site kept in memory, in bytes.
const MEMORY: u64 = 16 << 20;
/// More files than this are refused.
const FILES: usize = 200_000;

pub(super) fn load(root: &Path) -> io::Result<StaticSite> {
    let root = root.canonicalize()?;
    let mut walk = Walk { root: root.clone(), files: Vec::new(), memory: 0 };
    walk.directory(&root, "", &mut vec![root.clone()])?;
    walk.files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(site(walk.files))
}

struct Walk {
    root: PathBuf,
    /// Names with a leading slash.
    files: Vec<(String, Arc<FileEntry>)>,
    memory: u64,
}

impl Walk {
    /// `open` are the directories being walked, so that links can't lead round in circles.
    fn directory(&mut self, path: &Path, name: &str, open: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(last) = entry.file_name().into_string() else { continue };
            let name = format!("{name}/{last}");
            if is_hidden(&name) {
                continue;
            }
            let Some(target) = self.resolve(&entry)? else { continue };
            let metadata = fs::metadata(&target)?;
            if metadata.is_dir() {
                if !open.contains(&target) {
                    open.push(target.clone());
                    self.directory(&target, &name, open)?;
                    open.pop();
                }
            } else if metadata.is_file() {
                if self.files.len() >= FILES {
                    let words = format!("{} holds more than {FILES} files", self.root.display());
                    return Err(io::Error::other(words));
                }
                let file = self.file(target, &name)?;
                self.files.push((name, Arc::new(file)));
            }
        }
        Ok(())
    }

    /// Where an entry really is, or `None` when that may not be served.
    fn resolve(&self, entry: &fs::DirEntry) -> io::Result<Option<PathBuf>> {
        let path = entry.path();
        if !entry.file_type()?.is_symlink() {
            return Ok(Some(path));
        }
        let Ok(target) = path.canonicalize() else { return Ok(None) };
        let inside = target.strip_prefix(&self.root).ok().and_then(Path::to_str);
        Ok(match inside {
            Some(inside) if !is_hidden(&format!("/{inside}")) => Some(target),
            _ => None,
        })
    }

    fn file(&mut self, path: PathBuf, name: &str) -> io::Result<FileEntry> {
        let mut file = File::open(&path)?;
        let mut hash = Sha256::new();
        let mut content = Vec::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut buffer)?;
            let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
            hash.update(chunk);
            size += chunk.len() as u64;
            if size <= SMALL {
                content.extend_from_slice(chunk);
            }
        }
        let memory = (size <= SMALL && self.memory + size <= MEMORY).then(|| content.into());
        if memory.is_some() {
            self.memory += size;
        }
        let digest = hex::encode(hash.finalize());
        let etag = format!("\"{}\"", digest.get(..32).unwrap_or_default());
        let etag = HeaderValue::from_str(&etag).map_err(io::Error::other)?;
        Ok(FileEntry { path, size, etag, mime: mime(name), memory })
    }
}

/// Whether a name with a leading slash is left out: `.env` is, `.well-known/x` is not.
fn is_hidden(name: &str) -> bool {
    let name = match name.strip_prefix("/.well-known") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => name,
    };
    name.contains("/.")
}

fn mime(name: &str) -> HeaderValue {
    let guess = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    if guess.starts_with("text/") {
        HeaderValue::try_from(format!("{guess}; charset=utf-8"))
            .unwrap_or(HeaderValue::from_static(guess))
    } else {
        HeaderValue::from_static(guess)
    }
}

/// The request paths that lead to each file. A file's own name comes before the shorter ones that
/// others lend: `/docs/` and `/docs` of `/docs/index.html`, `/about` of `/about.html`.
fn site(files: Vec<(String, Arc<FileEntry>)>) -> StaticSite {
    let mut names = HashMap::with_capacity(files.len() * 2);
    let mut not_found = None;
    for (name, file) in &files {
        names.insert(name.as_str().into(), Found::File(Arc::clone(file)));
        if name == "/404.html" {
            not_found = Some(Arc::clone(file));
        }
    }
    for (name, file) in &files {
        if let Some(directory) = name.strip_suffix("index.html")
            && let Some(bare) = directory.strip_suffix('/')
        {
            names.entry(directory.into()).or_insert_with(|| Found::File(Arc::clone(file)));
            if !bare.is_empty() {
                names.entry(bare.into()).or_insert(Found::Directory);
            }
        }
    }
    for (name, file) in &files {
        if let Some(clean) = name.strip_suffix(".html")
            && !clean.ends_with('/')
        {
            names.entry(clean.into()).or_insert_with(|| Found::File(Arc::clone(file)));
        }
    }
    StaticSite { names, not_found }
}
