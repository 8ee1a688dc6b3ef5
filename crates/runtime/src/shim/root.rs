//! The file system that a program sees: the system's programs and libraries read-only, its own
//! `/app`, and nothing else of the host.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount};

use super::{Doing as _, Result, identity};
use crate::credentials;
use crate::protocol::{AppAccess, Isolation, Launch, Limits};
use crate::sys::{self, MOUNT_NO_DEV, MOUNT_NO_SUID, MOUNT_READ_ONLY};

/// Where programs and libraries are.
const SYSTEM: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix"];

/// What of `/etc` programs need: how to link, run and name things, and whom to trust. A list of
/// what is shown, not of what is masked, so that a secret nobody thought of stays hidden.
const SETTINGS: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "netconfig",
    "networks",
    "nsswitch.conf",
    "os-release",
    "perl",
    "php",
    "pki",
    "profile",
    "protocols",
    "python3",
    "python3.11",
    "python3.13",
    "rpc",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Where the file system in memory is until everything is mounted.
const LAYER: &str = ".layer";

const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Builds the root at the launch's mount point, moves into it and lets go of the host's.
pub(super) fn build(launch: &Launch) -> Result<()> {
    // Nothing mounted from here on shows on the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .doing("leave the host's mounts")?;
    let root = Root { at: launch.mount_point.clone(), launch };
    root.tmpfs("", "mode=755,size=1m")?;
    root.system()?;
    root.settings()?;
    root.registries()?;
    root.devices()?;
    root.layer()?;
    root.app()?;
    if let Some(cache) = &launch.cache {
        root.bind_writable(cache, "cache")?;
    }
    root.directory("var")?;
    symlink("/tmp", root.path("var/tmp")).doing("link /var/tmp")?;
    root.directory("run")?;
    for file in &launch.files {
        root.file_at_its_place(file)?;
    }
    root.processes()?;
    root.enter()
}

struct Root<'a> {
    at: PathBuf,
    launch: &'a Launch,
}

impl Root<'_> {
    fn path(&self, inside: &str) -> PathBuf {
        if inside.is_empty() { self.at.clone() } else { self.at.join(inside) }
    }

    fn directory(&self, inside: &str) -> Result<PathBuf> {
        let path = self.path(inside);
        fs::create_dir_all(&path).doing(&format!("make /{inside}"))?;
        Ok(path)
    }

    fn tmpfs(&self, inside: &str, options: &str) -> Result<()> {
        let target = self.directory(inside)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some(options))
            .doing(&format!("mount a memory file system on /{inside}"))
    }

    /// Shows `source`, a file or a directory with all that is mounted below it.
    fn bind(&self, source: &Path, inside: &str, attributes: u64) -> Result<()> {
        let target = self.path(inside);
        let what = || format!("show {} at /{inside}", source.display());
        if source.is_dir() {
            self.directory(inside)?;
        } else {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).doing(&what())?;
            }
            File::create(&target).doing(&what())?;
        }
        let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source), &target, None::<&str>, recursive, None::<&str>).doing(&what())?;
        sys::set_mount_attributes(&target, attributes).doing(&what())?;
        self.mask(source, inside)
    }

    fn bind_read_only(&self, source: &Path, inside: &str) -> Result<()> {
        self.bind(source, inside, MOUNT_READ_ONLY | MOUNT_NO_SUID | MOUNT_NO_DEV)
    }

    fn bind_writable(&self, source: &Path, inside: &str) -> Result<()> {
        self.bind(source, inside, MOUNT_NO_SUID | MOUNT_NO_DEV)
    }

    /// Covers the directories that no program may see where `source` would show them.
    fn mask(&self, source: &Path, inside: &str) -> Result<()> {
        for hidden in &self.launch.hidden {
            let Ok(below) = hidden.strip_prefix(source) else { continue };
            if below.as_os_str().is_empty() {
                return Err(format!(
                    "{} is kept from programs and can't be shown at /{inside}",
                    hidden.display()
                ));
            }
            let target = self.path(inside).join(below);
            if target.is_dir() {
                let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                let options = Some("mode=000,size=4k");
                mount(Some("tmpfs"), &target, Some("tmpfs"), flags, options)
                    .doing(&format!("cover {}", hidden.display()))?;
            }
        }
        Ok(())
    }

    fn system(&self) -> Result<()> {
        for name in SYSTEM {
            let source = Path::new("/").join(name);
            match fs::symlink_metadata(&source) {
                Ok(found) if found.is_symlink() => {
                    let to = fs::read_link(&source).doing("read a link")?;
                    symlink(to, self.path(name)).doing(&format!("link /{name}"))?;
                }
                Ok(_) => self.bind_read_only(&source, name)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn settings(&self) -> Result<()> {
        let etc = self.directory("etc")?;
        for name in SETTINGS {
            let source = Path::new("/etc").join(name);
            let Ok(found) = fs::symlink_metadata(&source) else { continue };
            if found.is_symlink() {
                let to = fs::read_link(&source).doing("read a link")?;
                symlink(to, etc.join(name)).doing(&format!("link /etc/{name}"))?;
            } else {
                self.bind_read_only(&source, &format!("etc/{name}"))?;
            }
        }
        let (user, group) = identity::ids(self.launch.isolation);
        let mut passwd = "root:x:0:0:root:/:/bin/sh\n".to_owned();
        let mut groups = "root:x:0:\n".to_owned();
        if !user.is_root() {
            passwd.push_str(&format!("app:x:{user}:{group}:app:/app:/bin/sh\n"));
            groups.push_str(&format!("app:x:{group}:\n"));
        }
        passwd.push_str("nobody:x:65534:65534:nobody:/:/bin/false\n");
        groups.push_str("nogroup:x:65534:\n");
        let write = |name: &str, text: &str| {
            fs::write(etc.join(name), text).doing(&format!("write /etc/{name}"))
        };
        write("passwd", &passwd)?;
        write("group", &groups)?;
        // Only the IPv4 address: a program told to listen on "localhost" then takes that one.
        write("hosts", "127.0.0.1 localhost selvedge\n")?;
        write("resolv.conf", "# No name service here: use the proxy that http_proxy names.\n")?;
        symlink("/proc/self/mounts", etc.join("mtab")).doing("link /etc/mtab")
    }

    /// What package managers are told for the whole machine. Copied, so that a credential that is
    /// written there later doesn't show either.
    fn registries(&self) -> Result<()> {
        for file in credentials::FILES.iter().map(Path::new) {
            // By its real name, so that a link shows nothing that is covered.
            let Ok(source) = file.canonicalize() else { continue };
            let Ok(inside) = source.strip_prefix("/") else { continue };
            let target = self.at.join(inside);
            match credentials::file_without(&source) {
                Some(text) if file.starts_with("/etc") => {
                    let copy = self.at.join(file.strip_prefix("/").unwrap_or(file));
                    fs::write(copy, text).doing(&format!("write {}", file.display()))?;
                }
                None if target.is_file() => {
                    let flags = MsFlags::MS_BIND;
                    mount(Some("/dev/null"), &target, None::<&str>, flags, None::<&str>)
                        .doing(&format!("cover {}", file.display()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn devices(&self) -> Result<()> {
        let dev = self.directory("dev")?;
        for name in DEVICES {
            let source = Path::new("/dev").join(name);
            let target = dev.join(name);
            File::create(&target).doing(&format!("make /dev/{name}"))?;
            mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .doing(&format!("show /dev/{name}"))?;
        }
        for (name, to) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
        {
            symlink(format!("/proc/self/{to}"), dev.join(name)).doing("link in /dev")?;
        }
        self.tmpfs("dev/shm", "mode=1777,size=64m")
    }

    /// The file system in memory for all that is not kept: one, so that one size limits it.
    fn layer(&self) -> Result<()> {
        let Limits { temporary_mib, temporary_files, .. } = self.launch.limits;
        let options = format!("mode=755,size={temporary_mib}m,nr_inodes={temporary_files}");
        self.tmpfs(LAYER, &options)?;
        let temporary = self.directory(&format!("{LAYER}/tmp"))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).doing("open /tmp")?;
        self.bind_writable(&temporary, "tmp")
    }

    /// What is mounted keeps what it needs of it; the program must not reach the rest.
    fn hide_layer(&self) -> Result<()> {
        let layer = self.path(LAYER);
        nix::mount::umount2(&layer, MntFlags::MNT_DETACH).doing("hide the layer in memory")?;
        fs::remove_dir(layer).doing("hide the layer in memory")
    }

    fn app(&self) -> Result<()> {
        match self.launch.app_access {
            AppAccess::Write => {
                self.hide_layer()?;
                self.bind_writable(&self.launch.app, "app")
            }
            AppAccess::Overlay => {
                let overlaid = self.overlay();
                self.hide_layer()?;
                // Not every kernel or file system can; most programs need not write here.
                overlaid.or_else(|_| self.bind_read_only(&self.launch.app, "app"))
            }
        }
    }

    /// The artifact with a layer in memory over it, so that programs which write beside their own
    /// files work, and find those files as their own.
    fn overlay(&self) -> Result<()> {
        let lower = self.directory(".artifact")?;
        let shown = match self.launch.isolation {
            Isolation::User(id) => identity::with_root_as(id, |namespace| {
                sys::bind_mapped(&self.launch.app, &lower, namespace)
            }),
            _ => Err("not needed".into()),
        };
        if shown.is_err() {
            self.bind_read_only(&self.launch.app, ".artifact")?;
        } else {
            self.mask(&self.launch.app, ".artifact")?;
        }
        let upper = self.directory(&format!("{LAYER}/upper"))?;
        self.directory(&format!("{LAYER}/work"))?;
        self.directory("app")?;
        let (user, group) = identity::ids(self.launch.isolation);
        std::os::unix::fs::chown(&upper, Some(user.as_raw()), Some(group.as_raw()))
            .doing("give the layer to the program")?;
        // Relative, because overlayfs has its own ideas about commas and colons in paths.
        std::env::set_current_dir(&self.at).doing("enter the new root")?;
        let mut options = format!("lowerdir=.artifact,upperdir={LAYER}/upper,workdir={LAYER}/work");
        if self.launch.isolation == Isolation::UserNamespace {
            options.push_str(",userxattr");
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let mounted = mount(Some("overlay"), "app", Some("overlay"), flags, Some(&*options));
        nix::mount::umount2(&lower, MntFlags::MNT_DETACH).doing("hide the artifact")?;
        fs::remove_dir(lower).doing("hide the artifact")?;
        mounted.doing("lay memory over /app")
    }

    fn file_at_its_place(&self, file: &Path) -> Result<()> {
        let Ok(inside) = file.strip_prefix("/") else { return Ok(()) };
        if self.launch.hidden.iter().any(|hidden| file.starts_with(hidden)) {
            return Ok(());
        }
        let target = self.at.join(inside);
        // In /usr, /opt or /etc/ssl it shows already.
        if target.exists() || !file.is_file() {
            return Ok(());
        }
        self.bind_read_only(file, &inside.to_string_lossy())
    }

    fn processes(&self) -> Result<()> {
        let target = self.directory("proc")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), &target, Some("proc"), flags, None::<&str>).doing("mount /proc")
    }

    fn enter(&self) -> Result<()> {
        fs::set_permissions(&self.at, fs::Permissions::from_mode(0o755)).doing("open the root")?;
        std::env::set_current_dir(&self.at).doing("enter the new root")?;
        nix::unistd::pivot_root(".", ".").doing("change the root")?;
        nix::mount::umount2(".", MntFlags::MNT_DETACH).doing("let go of the host's root")?;
        std::env::set_current_dir("/").doing("enter the new root")?;
        read_only_root().doing("make the root read-only")
    }
}

/// The root itself, not what is mounted in it.
fn read_only_root() -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}
