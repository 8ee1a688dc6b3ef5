//! How an installation on this machine is: its directory, its processes, its authority, its sites.

use super::Finding;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// An authority that ends so soon is to be replaced now, because browsers must trust the new one.
const ENDS_SOON_MS: u64 = 30 * DAY_MS;

/// What was seen of the installation.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The directory of the box.
    pub(crate) data: Data,
    /// The version of this program.
    pub(crate) version: &'static str,
    /// The user's id.
    pub(crate) user: u32,
    /// The clock, in Unix milliseconds.
    pub(crate) now_ms: u64,
    /// What `dev.json` says; `None` where there is none.
    pub(crate) supervisor: Option<Supervisor>,
    /// Sockets in the directory on which nobody listens.
    pub(crate) dead_sockets: Vec<String>,
    /// The authority's certificate; `None` where there is none yet.
    pub(crate) authority: Option<Authority>,
    /// What control says; `None` where none was found to ask.
    pub(crate) control: Option<Control>,
}

/// The directory of a box.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    /// Where.
    pub(crate) path: String,
    /// What is there.
    pub(crate) state: DataState,
}

/// What is where a box would keep its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DataState {
    /// Nothing.
    Missing,
    /// Something that is no box's, or a newer version's: in words, with a colon and the mend.
    Unusable(String),
    /// A box's directory.
    Box(Directory),
}

/// A directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Whose.
    pub(crate) owner: u32,
    /// The permission bits.
    pub(crate) mode: u32,
    /// Whether this user may write to it.
    pub(crate) writable: bool,
    /// When the newest file at its top was written, in Unix milliseconds.
    pub(crate) newest_ms: u64,
}

/// The supervisor of a box.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    /// What the file says; `None` when it can't be read as one.
    pub(crate) pid: Option<u32>,
    /// Whether that process lives.
    pub(crate) lives: bool,
}

/// The certificate of an authority.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    /// Where.
    pub(crate) path: String,
    /// When it ends, in Unix milliseconds, or why it can't be read.
    pub(crate) ends_ms: Result<u64, String>,
}

/// A control that was asked.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    /// Where it is.
    pub(crate) url: String,
    /// Its status, or why there is none, with what to do.
    pub(crate) status: Result<Status, (String, Option<String>)>,
}

/// What control says of itself and of the sites.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Its version.
    pub(crate) version: String,
    /// What does not work there, in words.
    pub(crate) problems: Vec<String>,
    /// How many sites are well.
    pub(crate) healthy: usize,
    /// Sites that are not heard of.
    pub(crate) lost: Vec<String>,
    /// What does not work at sites, in words, with the sites.
    pub(crate) site_problems: Vec<(String, Vec<String>)>,
}

/// Judges an installation.
pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = data(facts);
    findings.extend(supervisor(facts));
    findings.extend(sockets(facts));
    findings
        .extend(facts.authority.as_ref().map(|authority| judge_authority(authority, facts.now_ms)));
    if let Some(control) = &facts.control {
        findings.extend(judge_control(control, facts.version));
    }
    findings
}

fn data(facts: &Facts) -> Vec<Finding> {
    let Data { path, state } = &facts.data;
    let Directory { owner, mode, writable, newest_ms } = match state {
        DataState::Box(directory) => *directory,
        DataState::Missing => {
            return vec![Finding::note("directory", format!("there is no box at {path} yet"))];
        }
        DataState::Unusable(reason) => {
            let other = "name another directory with --data DIR or SELVEDGE_DATA";
            let split = reason.rsplit_once("; ").or_else(|| reason.rsplit_once(": "));
            let (what, mend) = split.unwrap_or((reason, other));
            return vec![Finding::fail("directory", what, mend)];
        }
    };
    let mut findings = Vec::new();
    if owner != facts.user && facts.user != 0 {
        findings.push(Finding::fail(
            "directory",
            format!("{path} belongs to user {owner}, and you are user {}", facts.user),
            "run as that user, or name a directory of yours with --data DIR",
        ));
    } else if !writable {
        findings.push(Finding::fail(
            "directory",
            format!("{path} can't be written to"),
            "is the disk mounted read-only, or the directory's mode changed? chmod u+rwx it",
        ));
    }
    if mode & 0o077 != 0 {
        findings.push(Finding::fail(
            "directory",
            format!("{path} is open to other users of this machine (mode {mode:o}), and the token is in it"),
            format!("chmod 700 {path}"),
        ));
    }
    if newest_ms > facts.now_ms + DAY_MS {
        findings.push(Finding::warn(
            "clock",
            format!("{path} has files from the future, so the clock has gone back"),
            "set the clock right, then start the box again",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("directory", format!("{path} is yours alone")));
    }
    findings
}

fn supervisor(facts: &Facts) -> Option<Finding> {
    let start = "start it with `selvedge dev`, which clears that up";
    Some(match facts.supervisor {
        Some(Supervisor { pid: Some(pid), lives: true }) => {
            Finding::ok("box", format!("runs as process {pid}"))
        }
        Some(Supervisor { pid: Some(pid), lives: false }) => {
            let what = format!("it does not run: process {pid} was killed, and left dev.json");
            Finding::warn("box", what, start)
        }
        Some(Supervisor { pid: None, .. }) => {
            Finding::warn("box", "its dev.json can't be read", start)
        }
        None if facts.data.state == DataState::Missing => return None,
        None => Finding::note("box", "it does not run; `selvedge dev` starts it"),
    })
}

fn sockets(facts: &Facts) -> Option<Finding> {
    let runs = matches!(facts.supervisor, Some(Supervisor { lives: true, .. }));
    let dead = facts.dead_sockets.join(", ");
    if dead.is_empty() {
        None
    } else if runs {
        Some(Finding::fail(
            "sockets",
            format!("nobody listens on {dead}, though the box runs"),
            "see logs/control.log in the box's directory for why, and start the box again",
        ))
    } else {
        let what = format!("{dead} is left of a box that was killed; the next start replaces it");
        Some(Finding::note("sockets", what))
    }
}

fn judge_authority(authority: &Authority, now_ms: u64) -> Finding {
    let Authority { path, ends_ms } = authority;
    let renew = format!(
        "stop the box, remove {path} and ca.key beside it, start again, and have browsers trust the new one"
    );
    match ends_ms {
        Err(reason) => Finding::fail(
            "authority",
            format!("{path} can't be read: {reason}"),
            "put it back from a backup; without one, start anew with `selvedge dev --reset`",
        ),
        Ok(end) if *end <= now_ms => {
            Finding::fail("authority", format!("{path} has expired, so HTTPS fails"), renew)
        }
        Ok(end) if *end <= now_ms + ENDS_SOON_MS => {
            let days = (end - now_ms) / DAY_MS;
            Finding::warn("authority", format!("{path} expires in {days} days"), renew)
        }
        Ok(end) => {
            let days = (end - now_ms) / DAY_MS;
            Finding::ok("authority", format!("valid for {days} more days"))
        }
    }
}

fn judge_control(control: &Control, version: &str) -> Vec<Finding> {
    let Control { url, status } = control;
    let status = match status {
        Ok(status) => status,
        Err((what, mend)) => {
            let mend = mend.clone().unwrap_or_else(|| "see control's log".to_owned());
            return vec![Finding::fail("control", what.clone(), mend)];
        }
    };
    let mut findings = vec![if status.version == version {
        Finding::ok("control", format!("answers at {url} and takes the token"))
    } else {
        Finding::warn(
            "control",
            format!("it is version {}, and this program {version}", status.version),
            "restart the box with this program, or use the other",
        )
    }];
    findings.extend(status.problems.iter().map(|problem| problem_of("control", problem)));
    if status.lost.is_empty() {
        findings.push(Finding::ok("sites", format!("all {} are heard of", status.healthy)));
    } else {
        findings.push(Finding::fail(
            "sites",
            format!("no word from {}", status.lost.join(", ")),
            "see logs/SITE.log in the box's directory; `selvedge dev` restarts dead sites unless told otherwise",
        ));
    }
    findings.extend(status.site_problems.iter().map(|(problem, sites)| {
        let mut finding = problem_of("sites", problem);
        finding.what = format!("{} (at {})", finding.what, sites.join(", "));
        finding
    }));
    findings
}

/// A problem in words, which may end in a colon and the mend.
fn problem_of(check: &'static str, problem: &str) -> Finding {
    let (what, mend) = problem.rsplit_once(": ").unwrap_or((problem, "see `selvedge status`"));
    Finding::warn(check, what, mend)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn healthy() -> Facts {
        let newest_ms = NOW - DAY_MS;
        let directory = Directory { owner: 1000, mode: 0o700, writable: true, newest_ms };
        let state = DataState::Box(directory);
        Facts {
            data: Data { path: "/b".into(), state },
            version: "1.2.3",
            user: 1000,
            now_ms: NOW,
            supervisor: Some(Supervisor { pid: Some(42), lives: true }),
            dead_sockets: Vec::new(),
            authority: Some(Authority { path: "/b/ca.pem".into(), ends_ms: Ok(NOW + 99 * DAY_MS) }),
            control: Some(Control {
                url: "http://127.0.0.1:7070".into(),
                status: Ok(Status { version: "1.2.3".into(), healthy: 8, ..Status::default() }),
            }),
        }
    }

    fn broken(break_it: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = healthy();
        break_it(&mut facts);
        let mut bad: Vec<_> =
            check(&facts).into_iter().filter(|finding| finding.level > Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        bad.remove(0)
    }

    fn directory(facts: &mut Facts) -> &mut Directory {
        match &mut facts.data.state {
            DataState::Box(directory) => directory,
            other => panic!("{other:?}"),
        }
    }

    fn status(facts: &mut Facts) -> &mut Status {
        facts.control.as_mut().unwrap().status.as_mut().unwrap()
    }

    #[test]
    fn a_healthy_installation_is_fine() {
        let findings = check(&healthy());
        assert_eq!(findings.len(), 5);
        assert!(
            findings.iter().all(|it| it.level == Level::Ok && it.mend.is_none()),
            "{findings:?}"
        );
    }

    /// Each way to be broken, the level, a word of what is said, and one of the mend.
    type Case = (fn(&mut Facts), Level, &'static str, &'static str);

    const CASES: [Case; 16] = [
        (
            |it| directory(it).owner = 7,
            Level::Fail,
            "belongs to user 7, and you are user 1000",
            "--data",
        ),
        (|it| directory(it).mode = 0o755, Level::Fail, "mode 755", "chmod 700 /b"),
        (|it| directory(it).writable = false, Level::Fail, "can't be written", "read-only"),
        (
            |it| directory(it).newest_ms = NOW + 2 * DAY_MS,
            Level::Warn,
            "the clock has gone back",
            "set the clock",
        ),
        (
            |it| {
                let words = "/b was written by a newer Selvedge: run that version";
                it.data.state = DataState::Unusable(words.into());
            },
            Level::Fail,
            "a newer Selvedge",
            "run that version",
        ),
        (
            |it| it.supervisor = Some(Supervisor { pid: Some(42), lives: false }),
            Level::Warn,
            "process 42 was killed",
            "selvedge dev",
        ),
        (
            |it| it.supervisor = Some(Supervisor { pid: None, lives: false }),
            Level::Warn,
            "can't be read",
            "selvedge dev",
        ),
        (
            |it| it.dead_sockets = vec!["hooks.sock".into()],
            Level::Fail,
            "nobody listens on hooks.sock",
            "control.log",
        ),
        (
            |it| it.authority.as_mut().unwrap().ends_ms = Ok(NOW),
            Level::Fail,
            "has expired",
            "ca.key",
        ),
        (
            |it| it.authority.as_mut().unwrap().ends_ms = Ok(NOW + 3 * DAY_MS),
            Level::Warn,
            "expires in 3 days",
            "trust the new one",
        ),
        (
            |it| it.authority.as_mut().unwrap().ends_ms = Err("no PEM".into()),
            Level::Fail,
            "no PEM",
            "backup",
        ),
        (
            |it| {
                let error = ("the token is not accepted".into(), Some("use its own".into()));
                it.control.as_mut().unwrap().status = Err(error);
            },
            Level::Fail,
            "token is not accepted",
            "use its own",
        ),
        (|it| status(it).version = "9.9.9".into(), Level::Warn, "version 9.9.9", "restart"),
        (
            |it| status(it).problems = vec!["builds are not limited: run as root".into()],
            Level::Warn,
            "builds are not limited",
            "run as root",
        ),
        (|it| status(it).lost = vec!["fra".into()], Level::Fail, "no word from fra", "SITE.log"),
        (
            |it| {
                let sites = vec!["fra".into(), "nyc".into()];
                status(it).site_problems = vec![("no HTTPS: free the port".into(), sites)];
            },
            Level::Warn,
            "no HTTPS (at fra, nyc)",
            "free the port",
        ),
    ];

    #[test]
    fn each_broken_installation_is_told_with_its_mend() {
        for (break_it, level, what, mend) in CASES {
            let finding = broken(break_it);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.what.contains(what), "{finding:?}");
            assert!(finding.mend.as_ref().is_some_and(|it| it.contains(mend)), "{finding:?}");
        }
    }

    #[test]
    fn no_box_is_nothing_wrong() {
        let mut facts = healthy();
        facts.data.state = DataState::Missing;
        (facts.supervisor, facts.authority, facts.control) = (None, None, None);
        let findings = check(&facts);
        let [only] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(only.level, Level::Note);
        // One that was stopped, and what one that was killed leaves.
        let stopped = broken(|it| it.supervisor = None);
        assert_eq!(stopped.level, Level::Note);
    }

    #[test]
    fn root_may_use_the_directory_of_others() {
        let mut facts = healthy();
        facts.user = 0;
        assert!(check(&facts).iter().all(|it| it.level == Level::Ok));
    }
}
