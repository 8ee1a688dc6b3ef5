//! The proxies that are compared: how each is found, configured and started, and what it lacks.
//!
//! The configurations lie in `peers/`, as somebody who knows the proxy would write them for one
//! core, with its logs off.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use super::case::{Case, Over};
use super::certificate::Certificate;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(super) enum Peer {
    Selvedge,
    Nginx,
    Haproxy,
    Varnish,
    Caddy,
    Trafficserver,
    Envoy,
}

/// Where the programs are.
pub(super) struct Tools {
    pub(super) selvedge: PathBuf,
    pub(super) envoy: PathBuf,
}

/// What a proxy is started with.
pub(super) struct Setting<'a> {
    /// Its own, on a memory file system.
    pub(super) directory: &'a Path,
    pub(super) origin: u16,
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) encrypted: bool,
    pub(super) cache_mib: u64,
    pub(super) certificate: &'a Certificate,
}

impl Peer {
    pub(super) const ALL: [Self; 7] = [
        Self::Selvedge,
        Self::Nginx,
        Self::Haproxy,
        Self::Varnish,
        Self::Caddy,
        Self::Trafficserver,
        Self::Envoy,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Selvedge => "Selvedge",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Varnish => "Varnish",
            Self::Caddy => "Caddy",
            Self::Trafficserver => "ATS",
            Self::Envoy => "Envoy",
        }
    }

    /// Why the proxy, as it is packaged, can't take part in a case.
    pub(super) fn lacks(self, case: Case) -> Option<&'static str> {
        match self {
            Self::Varnish if case.is_encrypted() => Some("it has no TLS"),
            Self::Caddy if case.needs_cache() => Some("it has no cache"),
            Self::Trafficserver | Self::Envoy if case == Case::Compressed => {
                Some("it is not set up to compress here")
            }
            Self::Nginx if case.is_over(Over::H3) => Some("this version has no HTTP/3"),
            Self::Haproxy if case.is_over(Over::H3) => Some("Debian builds it without QUIC"),
            Self::Trafficserver if case.is_over(Over::H3) => Some("Debian builds it without QUIC"),
            _ => None,
        }
    }

    /// MiB of cache that hold so many small objects, in the way that the proxy stores them.
    pub(super) fn cache_for(self, objects: u64) -> u64 {
        let kib = match self {
            // It reserves all of it at the start, in blocks of one KiB, and no more than 4095 MiB.
            Self::Haproxy => return (objects * 3 / 1024).clamp(64, 4095),
            // Each object has a file of one page and a part of an index.
            Self::Nginx => 6,
            _ => 4,
        };
        (objects * kib / 1024).max(512)
    }

    /// What the proxy says that it is.
    pub(super) fn version(self, tools: &Tools) -> anyhow::Result<String> {
        let argument = match self {
            Self::Selvedge | Self::Trafficserver | Self::Envoy => "--version",
            Self::Nginx | Self::Haproxy => "-v",
            Self::Varnish => "-V",
            Self::Caddy => "version",
        };
        version_of(&self.program(tools), argument)
    }

    /// Writes the configuration and says what starts the proxy in the foreground.
    pub(super) fn command(self, tools: &Tools, setting: &Setting<'_>) -> anyhow::Result<Command> {
        let mut command = Command::new(self.program(tools));
        let write = |name: &str, template: &str| setting.write(name, template);
        match self {
            Self::Selvedge => selvedge(&mut command, setting)?,
            Self::Nginx => {
                let file = write("nginx.conf", include_str!("peers/nginx.conf"))?;
                command.arg("-p").arg(setting.directory).arg("-c").arg(file);
            }
            Self::Haproxy => {
                let file = write("haproxy.cfg", include_str!("peers/haproxy.cfg"))?;
                command.args(["-db", "-f"]).arg(file);
            }
            Self::Varnish => varnish(&mut command, setting)?,
            Self::Caddy => {
                let file = write("Caddyfile", include_str!("peers/Caddyfile"))?;
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
                command.env("GOMAXPROCS", "1").env("HOME", setting.directory);
            }
            Self::Trafficserver => traffic_server(&mut command, setting)?,
            Self::Envoy => {
                let file = write("envoy.yaml", include_str!("peers/envoy.yaml"))?;
                command.args(["--concurrency", "1", "--log-level", "error"]);
                command.args(["--disable-hot-restart", "--config-path"]).arg(file);
            }
        }
        Ok(command)
    }

    fn program(self, tools: &Tools) -> PathBuf {
        match self {
            Self::Selvedge => tools.selvedge.clone(),
            Self::Envoy => tools.envoy.clone(),
            Self::Nginx => found("nginx"),
            Self::Haproxy => found("haproxy"),
            Self::Varnish => found("varnishd"),
            Self::Caddy => found("caddy"),
            Self::Trafficserver => found("traffic_server"),
        }
    }
}

impl Setting<'_> {
    /// Fills a template in and writes it to a file of the proxy's directory.
    fn write(&self, name: &str, template: &str) -> anyhow::Result<PathBuf> {
        let file = self.directory.join(name);
        let path = |path: &Path| path.display().to_string();
        let mut text = template.to_owned();
        for (name, value) in [
            ("directory", path(self.directory)),
            ("origin", self.origin.to_string()),
            ("plain", self.plain.to_string()),
            ("tls", self.tls.to_string()),
            ("cache_mib", self.cache_mib.to_string()),
            ("certificate", path(&self.certificate.chain)),
            ("key", path(&self.certificate.key)),
            ("combined", path(&self.certificate.combined)),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), &value);
        }
        ensure!(!text.contains("{{"), "the template of {name} names something unknown");
        std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
        Ok(file)
    }
}

/// As people run it: by flags where they are enough, else by a file.
fn selvedge(command: &mut Command, setting: &Setting<'_>) -> anyhow::Result<()> {
    command.arg("proxy");
    if setting.encrypted {
        let file = setting.write("selvedge.toml", include_str!("peers/selvedge.toml"))?;
        command.arg("--config").arg(file);
        return Ok(());
    }
    command.args(["--shards", "1", "--listen", &format!("127.0.0.1:{}", setting.plain)]);
    command.args(["--upstream", &format!("http://127.0.0.1:{}", setting.origin)]);
    command.args(["--cache-memory", &format!("{}MiB", setting.cache_mib)]);
    Ok(())
}

fn varnish(command: &mut Command, setting: &Setting<'_>) -> anyhow::Result<()> {
    let rules = setting.write("rules.vcl", include_str!("peers/varnish.vcl"))?;
    command.args(["-F", "-j", "none", "-T", "none", "-n"]);
    command.arg(setting.directory.join("varnish")).arg("-f").arg(rules);
    command.args(["-a", &format!("127.0.0.1:{}", setting.plain)]);
    command.args(["-s", &format!("malloc,{}m", setting.cache_mib)]);
    // One pool of threads for one core, with one thread for each connection of the cases; the
    // connections of the idle case stay; of its log in memory, which can't be switched off, all
    // that can be left out is.
    for parameter in [
        "thread_pools=1",
        "thread_pool_min=200",
        "thread_pool_max=3000",
        "timeout_idle=600",
        "listen_depth=4096",
        "vsl_space=1M",
        VSL_MASK,
    ] {
        command.args(["-p", parameter]);
    }
    Ok(())
}

/// Records of a request that Varnish would write into its log.
const VSL_MASK: &str = "vsl_mask=-ReqStart,-ReqMethod,-ReqURL,-ReqProtocol,-ReqHeader,-ReqUnset,\
    -ReqAcct,-RespProtocol,-RespStatus,-RespReason,-RespHeader,-RespUnset,-VCL_call,-VCL_return,\
    -Timestamp,-Hit,-HitMiss,-HitPass,-Begin,-End,-Link,-SessOpen,-SessClose,-BereqMethod,\
    -BereqURL,-BereqProtocol,-BereqHeader,-BereqUnset,-BereqAcct,-BerespProtocol,-BerespStatus,\
    -BerespReason,-BerespHeader,-BerespUnset,-BackendOpen,-BackendReuse,-BackendClose,-TTL,\
    -Storage,-Length,-Fetch_Body,-Filters";

fn traffic_server(command: &mut Command, setting: &Setting<'_>) -> anyhow::Result<()> {
    for directory in ["etc", "run", "log", "cache"] {
        std::fs::create_dir(setting.directory.join(directory))?;
    }
    setting.write("etc/records.config", include_str!("peers/trafficserver.records"))?;
    setting.write("etc/remap.config", "map / http://127.0.0.1:{{origin}}/\n")?;
    setting.write("etc/storage.config", "{{directory}}/cache {{cache_mib}}M\n")?;
    let certificate = "dest_ip=* ssl_cert_name={{certificate}} ssl_key_name={{key}}\n";
    setting.write("etc/ssl_multicert.config", certificate)?;
    setting.write("etc/ip_allow.yaml", include_str!("peers/trafficserver.ip_allow"))?;
    let layout = setting.write("runroot.yaml", include_str!("peers/trafficserver.runroot"))?;
    command.arg(format!("--run-root={}", layout.display()));
    Ok(())
}

/// A program's path. Those of root are not on everybody's.
pub(super) fn found(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut candidates = directories.map(|directory| directory.join(program));
    candidates.find(|file| file.is_file()).unwrap_or_else(|| PathBuf::from(program))
}

/// The version that a program tells.
pub(super) fn version_of(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| {
        let program = program.display();
        format!("can't run {program}: scripts/install-bench-peers.sh installs the peers")
    })?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    version_in(&text).with_context(|| format!("{} tells no version", program.display()))
}

/// The first thing like 1.2.3 in a text.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.split(|character: char| !character.is_ascii_digit() && character != '.');
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|number| number.parse::<u32>().is_ok())
    };
    words.find(is_version).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_every_peers_words() {
        for (text, version) in [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
            ("varnishd (varnish-7.1.1 revision 7cee1c58)", "7.1.1"),
            ("Traffic Server 9.2.9 Apr  4 2026 14:52:39 localhost", "9.2.9"),
            ("envoy  version: 9e558093/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("wrk debian/4.1.0-3+b2 [epoll]", "4.1.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
        assert_eq!(version_in("no version. At all"), None);
    }

    #[test]
    fn every_template_is_filled_in() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::create(directory.path()).unwrap();
        for peer in Peer::ALL {
            let own = directory.path().join(peer.name());
            std::fs::create_dir(&own).unwrap();
            let setting = Setting {
                directory: &own,
                origin: 1,
                plain: 2,
                tls: 3,
                encrypted: true,
                cache_mib: 4,
                certificate: &certificate,
            };
            let tools = Tools { selvedge: "selvedge".into(), envoy: "envoy".into() };
            let command = peer.command(&tools, &setting).unwrap();
            assert!(command.get_args().count() > 0, "{}", peer.name());
        }
    }
}
