//! The environment of programs: nothing of Selvedge's own but what reaches registries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::credentials;
use crate::protocol::EGRESS_PORT;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that name certificates to trust, each a file or a directory.
const CERTIFICATES: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "NPM_CONFIG_CAFILE",
    "CARGO_HTTP_CAINFO",
];

/// Beginnings of the names by which package managers are told of registries.
const REGISTRIES: &[&str] =
    &["PIP_", "NPM_CONFIG_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_HTTP_", "UV_INDEX"];

/// What in a name says that the value is a secret.
const SECRETS: &[&str] =
    &["TOKEN", "AUTH", "PASSWORD", "PASSWD", "USERNAME", "SECRET", "CREDENTIAL", "_OTP"];

/// Settings of package managers that name the operator's own directories or behaviour.
const OWN: &[&str] = &[
    "PIP_CACHE_DIR",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "PIP_LOG",
    "PIP_PREFIX",
    "PIP_PROXY",
    "PIP_ROOT",
    "PIP_SRC",
    "PIP_TARGET",
    "PIP_USER",
    "NPM_CONFIG_CACHE",
    "NPM_CONFIG_GLOBALCONFIG",
    "NPM_CONFIG_HTTPS_PROXY",
    "NPM_CONFIG_INIT_MODULE",
    "NPM_CONFIG_KEY",
    "NPM_CONFIG_LOCAL_PREFIX",
    "NPM_CONFIG_NOPROXY",
    "NPM_CONFIG_PREFIX",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_USERCONFIG",
];

/// The settings that programs get from Selvedge's own environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct PassedOn {
    variables: BTreeMap<String, String>,
    withheld: Vec<String>,
}

impl PassedOn {
    /// Takes what may be passed on out of an environment.
    pub(crate) fn from(environment: impl Iterator<Item = (String, String)>) -> Self {
        let (withheld, variables): (BTreeMap<_, _>, _) = environment
            .filter(|(name, _)| is_passed_on(name))
            .partition(|(_, value)| credentials::are_in_value(value));
        Self { variables, withheld: withheld.into_keys().collect() }
    }

    /// The names of variables that would be passed on if their values held no credential.
    pub(crate) fn withheld(&self) -> &[String] {
        &self.withheld
    }

    /// The certificate files among them, to be shown in the sandbox.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.variables
            .iter()
            .filter(|(name, _)| CERTIFICATES.contains(&name.to_ascii_uppercase().as_str()))
            .map(|(_, value)| PathBuf::from(value))
            .filter(|path| path.is_absolute() && path.is_file())
            .collect()
    }
}

fn is_passed_on(name: &str) -> bool {
    // npm reads its settings in lower case and, since some shells want that, in upper case.
    let name = name.to_ascii_uppercase();
    let wanted = CERTIFICATES.contains(&name.as_str())
        || name.starts_with("SSL_CERT_")
        || REGISTRIES.iter().any(|start| name.starts_with(start));
    wanted && !OWN.contains(&name.as_str()) && !SECRETS.iter().any(|secret| name.contains(secret))
}

/// Where a program's own directories are, as it sees them.
pub(crate) struct Places<'a> {
    /// For a task: everything that package managers keep goes here.
    pub(crate) cache: Option<&'a Path>,
    /// `$TMPDIR`.
    pub(crate) temporary: &'a Path,
}

/// The whole environment of a program. `own` wins over everything else.
pub(crate) fn compose(
    passed_on: &PassedOn,
    places: &Places<'_>,
    egress: bool,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut all = passed_on.variables.clone();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set("PATH", PATH.into());
    set("LANG", "C.UTF-8".into());
    set("USER", "app".into());
    set("LOGNAME", "app".into());
    set("SHELL", "/bin/sh".into());
    set("TMPDIR", text(places.temporary));
    // Else Python keeps its last words to itself when it is killed.
    set("PYTHONUNBUFFERED", "1".into());
    match places.cache {
        None => {
            set("HOME", text(places.temporary));
        }
        Some(cache) => {
            set("HOME", text(&cache.join("home")));
            set("XDG_CACHE_HOME", text(&cache.join("xdg")));
            set("npm_config_cache", text(&cache.join("npm")));
            set("PIP_CACHE_DIR", text(&cache.join("pip")));
            set("CARGO_HOME", text(&cache.join("cargo")));
            set("npm_config_update_notifier", "false".into());
        }
    }
    if egress {
        let proxy = format!("http://127.0.0.1:{EGRESS_PORT}");
        for name in [
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "npm_config_proxy",
            "npm_config_https_proxy",
            "PIP_PROXY",
        ] {
            set(name, proxy.clone());
        }
        for name in ["no_proxy", "NO_PROXY"] {
            set(name, "127.0.0.1,localhost,::1".into());
        }
        // Node's own client heeds the proxy only when asked to.
        set("NODE_USE_ENV_PROXY", "1".into());
    }
    all.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_certificates_and_registries_but_no_secrets() {
        let passes = |name: &str| is_passed_on(name);
        for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_INDEX_URL", "PIP_FIND_LINKS"] {
            assert!(passes(name), "{name}");
        }
        assert!(passes("npm_config_registry") && passes("NPM_CONFIG_REGISTRY"));
        for name in [
            "GIT_DIR",
            "GIT_SSL_CAINFO",
            "AWS_SECRET_ACCESS_KEY",
            "SELVEDGE_TOKEN",
            "npm_config__authToken",
            "NPM_CONFIG_//registry.example/:_password",
            "CARGO_REGISTRIES_MINE_TOKEN",
            "npm_config_prefix",
            "HOME",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "UV_INDEX_MINE_USERNAME",
            "npm_config_key",
        ] {
            assert!(!passes(name), "{name}");
        }
    }

    #[test]
    fn withholds_registries_with_a_password() {
        let environment = [
            ("PIP_INDEX_URL", "https://me:pass@registry.example/simple"),
            ("PIP_EXTRA_INDEX_URL", "https://one.example/ https://me@two.example/"),
            ("npm_config_registry", "https://registry.example/@scope/"),
            ("NPM_CONFIG_CERT", "-----BEGIN PRIVATE KEY-----"),
            ("GIT_DIR", "https://me:pass@registry.example/"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let passed_on = PassedOn::from(environment.into_iter());
        let names: Vec<_> = passed_on.variables.keys().collect();
        assert_eq!(names, ["npm_config_registry"]);
        assert_eq!(
            passed_on.withheld(),
            ["NPM_CONFIG_CERT", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"]
        );
    }
}
