//! `[[service]]`: what runs, and how.

use super::author::{command, environment, label};
use super::diagnostic::{Problems, closest, one_of, quote};
use super::keys::{
    self, DEFAULT_MEMORY_MIB, DEFAULT_START_TIMEOUT_S, DEFAULT_STOP_TIMEOUT_S, MAX_PATH_BYTES,
    Range,
};
use super::section::{Section, Text};
use super::{AddressError, Service, ServiceKind, UpstreamAddress, limits};
use crate::id::ServiceName;

const COMING_KINDS: [&str; 2] = ["container", "function"];

/// A service as far as it could be read; its name alone already makes routes to it valid.
pub(super) struct Draft<'a> {
    pub(super) name: Option<Text<'a>>,
    pub(super) at: usize,
    pub(super) service: Option<Service>,
}

pub(super) fn read<'a>(sections: &[Section<'a>], problems: &mut Problems<'_>) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for section in sections {
        let name = section.text("name", problems);
        if section.place_of("name").is_none() {
            problems.report(section.at, "[[service]] has no `name`", "add name = \"web\"");
        }
        if let Some(name) = name
            && drafts.iter().any(|d| d.name.is_some_and(|known| known.text == name.text))
        {
            let message = format!("two services are called {}", quote(name.text));
            problems.report(name.at, message, "give one of them another name");
        }
        let mut section = section.clone();
        if let Some(name) = name {
            section.title = format!("service {}", quote(name.text));
        }
        let service = read_one(&section, name, problems);
        drafts.push(Draft { name, at: section.at, service });
    }
    drafts
}

fn read_one(
    section: &Section<'_>,
    name: Option<Text<'_>>,
    problems: &mut Problems<'_>,
) -> Option<Service> {
    if let Some(at) = section.place_of("placement") {
        let message = format!("{} has a placement of its own", section.title);
        let mend = "state the placement of the whole app in [placement]: sites can't forward to each other yet, so every service must run wherever the app does";
        problems.report(at, message, mend);
    }
    section.refuse_unknown(&keys::SERVICE.names(), &["placement"], problems);
    let name = name.and_then(|name| label(name, "a service's name", ServiceName::new, problems));
    let build = command(section, "build", problems);
    let environment = environment(section, problems);
    let kind = kind(section, problems);
    Some(Service { name: name?, kind: kind?, build, environment })
}

fn kind(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<ServiceKind> {
    let Some(kind) = section.text("kind", problems) else {
        if section.place_of("kind").is_none() {
            let likely = match section {
                _ if section.place_of("command").is_some() => "process",
                _ if section.place_of("addresses").is_some() => "upstream",
                _ => "static",
            };
            let message = format!("{} has no `kind`", section.title);
            let mend = format!(
                "add kind = \"{likely}\"; there are \"static\", \"process\" and \"upstream\""
            );
            problems.report(section.at, message, mend);
        }
        return None;
    };
    match kind.text {
        "static" => {
            refuse_keys_of_others(section, "static", problems);
            let root = root(section, problems);
            let fallback = fallback(section, problems);
            root.map(|root| ServiceKind::Static { root, fallback })
        }
        "process" => {
            refuse_keys_of_others(section, "process", problems);
            process(section, problems)
        }
        "upstream" => {
            refuse_keys_of_others(section, "upstream", problems);
            upstream(section, problems)
        }
        coming if COMING_KINDS.contains(&coming) => {
            let message = format!("services of kind \"{coming}\" come later");
            problems.report(
                kind.at,
                message,
                "use \"static\", \"process\" or \"upstream\" for now",
            );
            None
        }
        other => {
            let message = format!("there is no kind of service called {}", quote(other));
            let mend = match closest(other, keys::KINDS.map(|(kind, _)| kind)) {
                Some(likely) => format!("did you mean \"{likely}\"?"),
                None => "use \"static\" for files, \"process\" for a program that listens on $PORT, \"upstream\" for an HTTP server elsewhere"
                    .to_owned(),
            };
            problems.report(kind.at, message, mend);
            None
        }
    }
}

/// Reports the keys that services of `kind` don't have and others do.
fn refuse_keys_of_others(section: &Section<'_>, kind: &str, problems: &mut Problems<'_>) {
    for key in keys::SERVICE.keys {
        let Some(at) = section.place_of(key.name) else { continue };
        if !key.kinds.is_empty() && !key.kinds.contains(&kind) {
            let others = one_of(key.kinds);
            let message = format!(
                "{} is of kind {kind}, and `{}` belongs to {others}",
                section.title, key.name
            );
            let others = one_of(key.kinds.iter().map(|kind| format!("\"{kind}\"")));
            problems.report(at, message, format!("remove `{}`, or set kind = {others}", key.name));
        }
    }
}

fn root(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<String> {
    if section.place_of("root").is_none() {
        let message = format!("{} has no `root`", section.title);
        let mend = "add root = \"public\", the directory whose files are served";
        problems.report(section.at, message, mend);
    }
    let root = section.text("root", problems)?;
    if let Some((what, mend)) = path_problem(root.text) {
        problems.report(root.at, format!("root {} {what}", quote(root.text)), mend);
        return None;
    }
    let mut parts = parts(root.text);
    let first = parts.next().unwrap_or(".").to_owned();
    Some(parts.fold(first, |path, part| path + "/" + part))
}

/// The segments of a path that say something.
fn parts(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn path_problem(path: &str) -> Option<(&'static str, &'static str)> {
    let mut parts = parts(path);
    if path.is_empty() {
        Some(("is empty", "write root = \".\" for the app's own directory"))
    } else if path.len() > MAX_PATH_BYTES {
        Some(("is too long", "choose a path of at most 1024 bytes"))
    } else if path.starts_with('/') {
        Some(("is absolute", "write it relative to the directory of selvedge.toml"))
    } else if parts.clone().any(|part| part == "..") {
        Some(("leads out of the app's directory", "keep it below the directory of selvedge.toml"))
    } else if parts.any(|part| part == ".git") {
        Some(("would publish the repository itself", "choose the directory that the build fills"))
    } else if path.contains(|c: char| c.is_control() || c == '\\') {
        Some(("has a backslash or a control character", "separate directories with `/`"))
    } else {
        None
    }
}

/// The file of an app that routes in the browser.
fn fallback(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let fallback = section.text_such_as("fallback", "index.html", problems)?;
    let wrong = if fallback.text.starts_with('/') {
        Some(("is absolute", "write it relative to `root`, such as \"index.html\""))
    } else if parts(fallback.text).next().is_none() || fallback.text.ends_with('/') {
        Some(("names no file", "write the file's path below `root`, such as \"index.html\""))
    } else {
        path_problem(fallback.text)
    };
    if let Some((what, mend)) = wrong {
        problems.report(fallback.at, format!("fallback {} {what}", quote(fallback.text)), mend);
    }
    Some(parts(fallback.text).collect::<Vec<_>>().join("/"))
}

fn upstream(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<ServiceKind> {
    if section.place_of("addresses").is_none() {
        let message = format!("{} has no `addresses`", section.title);
        let mend = "add addresses = [\"http://10.0.0.5:9000\"]";
        problems.report(section.at, message, mend);
    }
    let mut addresses: Vec<UpstreamAddress> = Vec::new();
    for text in section.texts("addresses", keys::MAX_ADDRESSES, problems) {
        match UpstreamAddress::new(text.text) {
            Ok(address) if addresses.contains(&address) => {
                let message = format!("address {} is there twice", quote(text.text));
                problems.report(text.at, message, "remove one; port 80 is the same as none");
            }
            Ok(address) => addresses.push(address),
            Err(AddressError { what, mend }) => {
                problems.report(text.at, format!("address {} {what}", quote(text.text)), mend);
            }
        }
    }
    let host = section.text("host", problems).and_then(|host| host_header(host, problems));
    let health = health(section, problems);
    (!addresses.is_empty()).then_some(ServiceKind::Upstream { addresses, host, health })
}

/// A `host` header: a host name or an address, and perhaps a port.
fn host_header(host: Text<'_>, problems: &mut Problems<'_>) -> Option<String> {
    if host.text.contains('/') || UpstreamAddress::new(&format!("http://{}", host.text)).is_err() {
        let message = format!("host {} is no host name", quote(host.text));
        problems.report(host.at, message, "write a name, such as \"legacy.example.com\"");
        return None;
    }
    Some(host.text.to_ascii_lowercase())
}

fn process(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<ServiceKind> {
    if section.place_of("command").is_none() {
        let message = format!("{} has no `command`", section.title);
        let mend = "add command = \"node server.js\", a program that listens on $PORT";
        problems.report(section.at, message, mend);
    }
    let command = command(section, "command", problems);
    let health = health(section, problems);
    let start_timeout_s = seconds(section, "start_timeout", problems);
    let stop_timeout_s = seconds(section, "stop_timeout", problems);
    let memory_mib =
        size(section, "memory", keys::MEMORY, "256MiB", problems).unwrap_or(DEFAULT_MEMORY_MIB);
    let limits = limits::of_process(section, memory_mib, problems);
    Some(ServiceKind::Process {
        command: command?,
        health,
        start_timeout_s: start_timeout_s.unwrap_or(DEFAULT_START_TIMEOUT_S),
        stop_timeout_s: stop_timeout_s.unwrap_or(DEFAULT_STOP_TIMEOUT_S),
        memory_mib,
        limits,
    })
}

fn health(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let health = section.text("health", problems)?;
    if let Some((what, mend)) = health_problem(health.text) {
        problems.report(health.at, format!("health {} {what}", quote(health.text)), mend);
    }
    Some(health.text.to_owned())
}

fn health_problem(health: &str) -> Option<(&'static str, &'static str)> {
    if health.contains("://") {
        Some(("is a whole URL", "write the path alone, such as \"/healthz\""))
    } else if !health.starts_with('/') || health.starts_with("//") {
        Some(("does not begin with one `/`", "write a path such as \"/healthz\""))
    } else if health.contains('#') || !health.bytes().all(|b| b.is_ascii_graphic()) {
        Some((
            "has a character that no request path has",
            "use plain ASCII without spaces, and percent-encode the rest",
        ))
    } else if health.len() > MAX_PATH_BYTES {
        Some(("is too long", "choose a path of at most 1024 bytes"))
    } else {
        None
    }
}

/// A duration: a whole number with `s` or `m`.
fn seconds(section: &Section<'_>, key: &str, problems: &mut Problems<'_>) -> Option<u32> {
    let text = section.text_such_as(key, "30s", problems)?;
    let seconds = quantity(text.text, &[("s", 1), ("m", 60)]);
    match seconds {
        None => {
            let message = format!("{} is no duration that `{key}` takes", quote(text.text));
            problems.report(text.at, message, format!("write {key} = \"30s\" or \"2m\""));
        }
        Some(seconds) if !keys::TIMEOUT.contains(seconds) => {
            let message = format!("`{key}` is {seconds} seconds");
            problems.report(text.at, message, between(keys::TIMEOUT, keys::duration));
        }
        Some(_) => {}
    }
    seconds
}

/// A size in MiB: a whole number with `MiB` or `GiB`.
pub(super) fn size(
    section: &Section<'_>,
    key: &str,
    range: Range,
    example: &str,
    problems: &mut Problems<'_>,
) -> Option<u32> {
    let text = section.text_such_as(key, example, problems)?;
    let units = [("MiB", 1), ("GiB", 1024)];
    let size = quantity(text.text, &units);
    match size {
        None => {
            let message = format!("{} is no size that `{key}` takes", quote(text.text));
            let units = one_of(units.map(|(unit, _)| unit));
            let mend = format!("write a whole number with {units}: {key} = \"{example}\"");
            problems.report(text.at, message, mend);
        }
        Some(size) if !range.contains(size) => {
            let message = format!("`{key}` is {size} MiB");
            problems.report(text.at, message, between(range, keys::size));
        }
        Some(_) => {}
    }
    size
}

fn between(range: Range, show: impl Fn(u32) -> String) -> String {
    format!("choose between {} and {}", show(range.least), show(range.most))
}

/// A whole number followed by one of `units`, as a multiple of the unit that counts 1.
fn quantity(text: &str, units: &[(&str, u32)]) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u32>().ok()?.checked_mul(*factor)
}
