//! Where control is, which repository and which app is meant: all worked out from where the user
//! stands, so that nobody types an id.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use selvedge_api::{Client, ClientConfig, ClientError, DevInfo, ProblemKind, Token};
pub(crate) use selvedge_model::manifest::FILE_NAME as MANIFEST;
use selvedge_model::{App, AppName, RepositoryName};

use crate::cli::Connection;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::{boxes, contract};

/// The git remote that says where an app is deployed.
pub(crate) const REMOTE: &str = "selvedge";

/// A control that was found.
pub(crate) struct Control {
    /// Calls its API.
    pub(crate) client: Client,
    /// URL base of git.
    pub(crate) git: String,
    /// The operator's token.
    pub(crate) token: Token,
    /// The authority to trust.
    pub(crate) ca: Option<PathBuf>,
    /// The box, when that is what was found.
    pub(crate) dev: Option<DevInfo>,
}

/// The directory that the user stands in.
pub(crate) fn here() -> Outcome<PathBuf> {
    std::env::current_dir().or_fail(
        Code::Usage,
        "the current directory can't be told",
        "it may have been removed: change to one that exists",
    )
}

/// Where a box keeps everything unless told otherwise.
pub(crate) fn default_data() -> Outcome<PathBuf> {
    if let Some(data) = std::env::var_os("SELVEDGE_DATA").filter(|data| !data.is_empty()) {
        return Ok(data.into());
    }
    usual_data()
}

/// The same without the variable.
pub(crate) fn usual_data() -> Outcome<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    match base {
        Some(base) => Ok(base.join("selvedge/box")),
        None => Err(Failure::new(
            Code::Usage,
            "HOME is not set",
            "say where the box is to be with --data DIR",
        )),
    }
}

/// The box on `data`, if its supervisor lives.
pub(crate) fn read_box(data: &Path) -> Option<DevInfo> {
    let info: DevInfo =
        serde_json::from_slice(&std::fs::read(data.join(contract::DEV)).ok()?).ok()?;
    // A supervisor that was killed could not remove its file.
    Path::new("/proc").join(info.pid.to_string()).exists().then_some(info)
}

/// Finds control: flags and variables, then the git remote, then a running box.
pub(crate) fn find_control(connection: &Connection) -> Outcome<Control> {
    // A box that is named beats a remote that is merely there.
    let named = connection.data.as_deref().filter(|_| connection.control_url.is_none());
    let named = named.map(|data| boxes::choose(Some(data))).transpose()?.flatten();
    let told = connection.control_url.is_some() || named.is_some();
    let remote = if told { None } else { remote() };
    let url = connection.control_url.as_ref().or(remote.as_ref().map(|remote| &remote.control));
    let (url, dev) = match url.map(|url| url.trim_end_matches('/').to_owned()) {
        Some(url) => (url.clone(), boxes::at(&url)),
        None => {
            let found = if named.is_some() { named } else { boxes::choose(None)? };
            let dev = found.ok_or_else(|| {
                Failure::new(
                    Code::Control,
                    "no control was found: no flag, no SELVEDGE_CONTROL, no git remote `selvedge`, no box that runs",
                    "start a box with `selvedge dev`, or name a control with SELVEDGE_CONTROL and SELVEDGE_TOKEN",
                )
            })?;
            (dev.control.clone(), Some(dev))
        }
    };
    let from_remote = remote.is_some();
    let known = remote.and_then(|remote| remote.token);
    let known = known.map(Token).or_else(|| dev.as_ref().map(|dev| dev.token.clone()));
    let ca = connection.ca.clone().or_else(|| dev.as_ref().map(|dev| dev.ca.clone()));
    let client = |token: Token| {
        Client::new(&ClientConfig { url: url.clone(), token, ca: ca.clone() })
            .map_err(client_failure)
    };
    // A URL that is of no use is said before a token that is missing.
    client(Token(String::new()))?;
    let token = token(connection, known, &url, from_remote)?;
    let client = client(token.clone())?;
    let git = dev.as_ref().map_or_else(|| format!("{url}/git"), |dev| dev.git.clone());
    Ok(Control { client, git, token, ca, dev })
}

/// The token that was given, else the one that is `known`. `from_remote`: a git remote named `url`.
fn token(
    connection: &Connection,
    known: Option<Token>,
    url: &str,
    from_remote: bool,
) -> Outcome<Token> {
    if let Some(path) = &connection.token_file {
        let text = std::fs::read_to_string(path).or_fail(
            Code::Usage,
            format!("can't read the token from {}", path.display()),
            "give --token-file a file of text that you may read",
        )?;
        return Ok(Token(text.trim().to_owned()));
    }
    // Read here and not by the command line's parser, so that no help text can ever show it.
    if let Some(token) = std::env::var("SELVEDGE_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok(Token(token));
    }
    let missing = || {
        let (what, hint) = if from_remote {
            // What remains of a box that was stopped, or moved to other ports.
            (
                format!(
                    "the git remote `{REMOTE}` leads to control at {url}, which no box here has"
                ),
                "start that box with `selvedge dev`, or forget it with `git remote remove selvedge`; \
                 for a control elsewhere set SELVEDGE_TOKEN",
            )
        } else {
            (
                format!("there is no token for control at {url}"),
                "set SELVEDGE_TOKEN, or give --token-file FILE",
            )
        };
        Failure::new(Code::Control, what, hint)
    };
    known.ok_or_else(missing)
}

/// What a failed call means for the verb.
pub(crate) fn client_failure(error: ClientError) -> Failure {
    let code = match &error {
        ClientError::Problem(problem) if problem.is(ProblemKind::Unauthorized) => Code::Control,
        ClientError::Problem(problem)
            if problem.is(ProblemKind::NotFound) || problem.is(ProblemKind::BadRequest) =>
        {
            Code::Usage
        }
        ClientError::Problem(_) => Code::Failed,
        ClientError::Unreachable { .. }
        | ClientError::Broken { .. }
        | ClientError::Silent { .. }
        | ClientError::Protocol { .. } => Code::Control,
        ClientError::Config { .. } | ClientError::Authority { .. } | ClientError::Token => {
            Code::Usage
        }
    };
    let hint = error.hint();
    Failure { error: error.into(), hint, code }
}

/// The git remote `selvedge` taken apart.
#[derive(Debug, PartialEq)]
struct Remote {
    control: String,
    repository: Option<RepositoryName>,
    /// The password, where the URL holds one.
    token: Option<String>,
}

fn remote() -> Option<Remote> {
    take_apart(&git(Path::new("."), &["remote", "get-url", REMOTE])?)
}

fn take_apart(url: &str) -> Option<Remote> {
    let (control, path) = url.split_once("/git/")?;
    let repository = RepositoryName::new(path.trim_end_matches('/').trim_end_matches(".git")).ok();
    let (scheme, authority) = control.split_once("://")?;
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let token = user.and_then(|user| user.split_once(':')).map(|(_, token)| token.to_owned());
    Some(Remote { control: format!("{scheme}://{host}"), repository, token })
}

/// What a git command prints, trimmed, if it succeeds.
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The top of the git repository that `directory` is in.
pub(crate) fn repository_top(directory: &Path) -> Outcome<PathBuf> {
    git(directory, &["rev-parse", "--show-toplevel"]).map(PathBuf::from).ok_or_else(|| {
        if no_git() {
            return git_missing();
        }
        Failure::new(
            Code::Usage,
            format!("{} is in no git repository", directory.display()),
            "run `git init` and commit, or change to the app's repository",
        )
    })
}

/// Whether this machine has no git that can be run.
fn no_git() -> bool {
    let version = Command::new("git").arg("--version").stdout(Stdio::null()).status();
    version.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// What to say where git is needed and is not there.
pub(crate) fn git_missing() -> Failure {
    Failure::new(
        Code::Usage,
        "git is not installed, or not in PATH",
        "install it (Debian: apt-get install git); a deploy is a git push",
    )
}

/// The repository's name at control: what was asked for, else the git remote's, else the app's at
/// the top, else the directory's.
pub(crate) fn repository_name(
    asked: Option<RepositoryName>,
    top: &Path,
) -> Outcome<RepositoryName> {
    if let Some(name) = asked.or_else(|| remote().and_then(|remote| remote.repository)) {
        return Ok(name);
    }
    let app = read_app(top).ok().map(|app| app.name.to_string());
    let directory = top.file_name().map(|name| name.to_string_lossy().to_lowercase());
    app.or(directory).and_then(|name| RepositoryName::new(name).ok()).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "the repository's name can't be told from its directory",
            "name it with --repository NAME",
        )
    })
}

/// Reads and checks the app of `directory`.
pub(crate) fn read_app(directory: &Path) -> Outcome<App> {
    let path = directory.join(MANIFEST);
    let text = std::fs::read_to_string(&path).or_fail(
        Code::Usage,
        format!("can't read {}", path.display()),
        "change to the app's directory, or name the app",
    )?;
    selvedge_model::manifest::parse(&crate::verbs::show(&path), &text).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(
            Code::Usage,
            all.join("\n"),
            "mend the file and look at it with `selvedge check`, or name the app",
        )
    })
}

/// The app that is meant: named, else the nearest directory's upwards to the repository's top.
pub(crate) fn choose_app(named: Option<AppName>) -> Outcome<AppName> {
    let app = match named {
        Some(app) => Some(app),
        None => app_here()?,
    };
    let Some(app) = app else {
        return Err(Failure::new(
            Code::Usage,
            format!("which app? {} has no selvedge.toml", here()?.display()),
            "change to the app's directory, or name the app; `selvedge status` lists all",
        ));
    };
    Ok(app)
}

/// The app of this directory, or of the nearest one upwards to the repository's top that has one.
pub(crate) fn app_here() -> Outcome<Option<AppName>> {
    let here = here()?;
    let top = repository_top(&here).unwrap_or_else(|_| here.clone());
    let directory = here
        .ancestors()
        .take_while(|directory| directory.starts_with(&top))
        .find(|directory| directory.join(MANIFEST).is_file());
    directory.map(|directory| Ok(read_app(directory)?.name)).transpose()
}

/// Variables that let git reach control with the token, without the token being on a command line
/// or in a file.
pub(crate) fn git_credentials(control: &Control) -> Vec<(String, String)> {
    let basic =
        base64::engine::general_purpose::STANDARD.encode(format!("selvedge:{}", control.token.0));
    let mut settings = vec![(
        format!("http.{}/.extraHeader", control.git),
        format!("Authorization: Basic {basic}"),
    )];
    if let Some(ca) = &control.ca {
        settings
            .push((format!("http.{}/.sslCAInfo", control.git), ca.to_string_lossy().into_owned()));
    }
    let mut variables = vec![
        ("GIT_TERMINAL_PROMPT".into(), "0".into()),
        ("GIT_CONFIG_COUNT".into(), settings.len().to_string()),
    ];
    for (index, (key, value)) in settings.into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{index}"), key));
        variables.push((format!("GIT_CONFIG_VALUE_{index}"), value));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_taken_apart() {
        let remote = |token: Option<&str>| {
            Some(Remote {
                control: "http://127.0.0.1:7070".into(),
                repository: RepositoryName::new("shop").ok(),
                token: token.map(str::to_owned),
            })
        };
        assert_eq!(take_apart("http://127.0.0.1:7070/git/shop.git"), remote(None));
        assert_eq!(take_apart("http://x:abc@127.0.0.1:7070/git/shop.git"), remote(Some("abc")));
        assert_eq!(take_apart("git@example.com:shop.git"), None);
    }
}
