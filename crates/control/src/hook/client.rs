//! The hook's own end, a program of its own: synchronous, and alone with git and control.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use selvedge_model::RepositoryName;

use super::{MAX_MESSAGE, MAX_UPDATES, Question, Update, Verdict, Word, pktline};

/// The main function of the hidden verb `hook`; returns the exit code.
pub fn hook_main() -> u8 {
    let mut stderr = io::stderr();
    match run(&mut io::stdin().lock(), &mut io::stdout().lock(), &mut stderr) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(stderr, "selvedge: the push could not be handed to control: {error}");
            1
        }
    }
}

fn run(
    git_in: &mut impl Read,
    git_out: &mut impl Write,
    pusher: &mut impl Write,
) -> io::Result<()> {
    let missing = |name| io::Error::other(format!("{name} is not set; git did not run this"));
    let socket = std::env::var_os("SELVEDGE_HOOK_SOCKET")
        .map(PathBuf::from)
        .ok_or_else(|| missing("SELVEDGE_HOOK_SOCKET"))?;
    let repository = std::env::var("SELVEDGE_REPOSITORY")
        .ok()
        .and_then(|name| RepositoryName::new(name).ok())
        .ok_or_else(|| missing("SELVEDGE_REPOSITORY"))?;
    let updates = greet(git_in, git_out)?;
    let verdicts = match ask(&socket, repository, &updates, pusher) {
        Ok(verdicts) => verdicts,
        Err(error) => {
            let _ = writeln!(pusher, "selvedge: {error}");
            let _ = writeln!(pusher, "`selvedge releases` shows what became of the push.");
            let reason = "the connection to control was lost".to_owned();
            updates.iter().map(|_| Verdict::Refused { reason: reason.clone() }).collect()
        }
    };
    answer(git_out, &updates, &verdicts)
}

/// Agrees on the protocol's version and reads what is pushed.
fn greet(git_in: &mut impl Read, git_out: &mut impl Write) -> io::Result<Vec<Update>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let hello = pktline::read_group(git_in, 16)?;
    let hello = hello.first().ok_or_else(|| wrong("git says nothing"))?;
    let mut parts = hello.splitn(2, |b| *b == 0);
    if parts.next() != Some(b"version=1") {
        return Err(wrong("git speaks an unknown version of proc-receive"));
    }
    let features = parts.next().unwrap_or_default();
    let options = features.split(|b| *b == b' ').any(|feature| feature == b"push-options");
    pktline::write(git_out, if options { b"version=1\0push-options" } else { b"version=1\0" })?;
    pktline::flush(git_out)?;
    git_out.flush()?;
    let updates = pktline::read_group(git_in, MAX_UPDATES)?
        .iter()
        .map(|line| parse_update(line).ok_or_else(|| wrong("git sent a malformed command")))
        .collect::<io::Result<Vec<_>>>()?;
    if options {
        pktline::read_group(git_in, MAX_UPDATES)?;
    }
    Ok(updates)
}

fn parse_update(line: &[u8]) -> Option<Update> {
    let text = std::str::from_utf8(line).ok()?;
    let mut parts = text.splitn(3, ' ').map(str::to_owned);
    Some(Update { old: parts.next()?, new: parts.next()?, name: parts.next()? })
}

/// Puts the question to control, and shows what it says until it has decided.
fn ask(
    socket: &std::path::Path,
    repository: RepositoryName,
    updates: &[Update],
    pusher: &mut impl Write,
) -> io::Result<Vec<Verdict>> {
    let stream = UnixStream::connect(socket)?;
    let question = Question { repository, updates: updates.to_vec() };
    let mut writer = BufWriter::new(&stream);
    serde_json::to_writer(&mut writer, &question)?;
    writer.write_all(b"\n")?;
    writer.flush()?;
    let mut reader = BufReader::new(&stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_MESSAGE as u64).read_line(&mut line)? == 0 {
            return Err(io::Error::other("control has ended before the push was done"));
        }
        match serde_json::from_str(&line)? {
            // A pusher who has hung up reads no more, and the push goes on.
            Word::Progress { text } => drop(writeln!(pusher, "{text}")),
            Word::Verdicts { verdicts } if verdicts.len() == updates.len() => return Ok(verdicts),
            Word::Verdicts { .. } => return Err(io::Error::other("control did not say enough")),
        }
    }
}

fn answer(git_out: &mut impl Write, updates: &[Update], verdicts: &[Verdict]) -> io::Result<()> {
    for (update, verdict) in updates.iter().zip(verdicts) {
        match verdict {
            Verdict::Moved => pktline::write(git_out, format!("ok {}", update.name).as_bytes())?,
            Verdict::Leave => {
                pktline::write(git_out, format!("ok {}", update.name).as_bytes())?;
                pktline::write(git_out, b"option fall-through")?;
            }
            Verdict::Refused { reason } => {
                // One line, because that is how git shows it.
                let reason: String =
                    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                pktline::write(git_out, format!("ng {} {reason}", update.name).as_bytes())?;
            }
        }
    }
    pktline::flush(git_out)?;
    git_out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_goes_both_ways() {
        let mut wire = Vec::new();
        pktline::write(&mut wire, b"version=1\0push-options atomic").unwrap();
        pktline::flush(&mut wire).unwrap();
        let (old, new) = ("0".repeat(40), "a".repeat(40));
        pktline::write(&mut wire, format!("{old} {new} refs/heads/main").as_bytes()).unwrap();
        pktline::write(&mut wire, format!("{old} {new} refs/tags/v1").as_bytes()).unwrap();
        pktline::flush(&mut wire).unwrap();
        pktline::write(&mut wire, b"an-option").unwrap();
        pktline::flush(&mut wire).unwrap();
        let mut out = Vec::new();
        let mut rest = wire.as_slice();
        let updates = greet(&mut rest, &mut out).unwrap();
        assert!(rest.is_empty());
        assert_eq!(updates[0].name, "refs/heads/main");
        assert!(out.ends_with(b"version=1\0push-options0000"));

        out.clear();
        let refused = Verdict::Refused { reason: "a\nb".into() };
        answer(&mut out, &updates, &[refused, Verdict::Leave]).unwrap();
        let lines = pktline::read_group(&mut out.as_slice(), 9).unwrap();
        let lines: Vec<_> = lines.iter().map(|l| String::from_utf8_lossy(l)).collect();
        assert_eq!(lines, ["ng refs/heads/main a b", "ok refs/tags/v1", "option fall-through"]);
    }

    #[test]
    fn another_version_is_refused() {
        let mut wire = Vec::new();
        pktline::write(&mut wire, b"version=2").unwrap();
        pktline::flush(&mut wire).unwrap();
        assert!(greet(&mut wire.as_slice(), &mut Vec::new()).is_err());
    }
}
