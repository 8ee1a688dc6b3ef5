//! A command line that can't be understood: the parser's errors in our words.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use selvedge_model::closest;

use crate::failure::{Code, Failure};

/// What to tell about `error`, which is no request for help or the version. `line` are the words
/// that were not understood.
pub(crate) fn failure(error: &clap::Error, line: &[String]) -> Failure {
    let one = |kind| text(error, kind).unwrap_or_default();
    let verb = verb(line);
    let see_help = format!("`{verb} --help` shows what it takes, with examples");
    let (what, hint) = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let given = one(ContextKind::InvalidSubcommand);
            let mut verbs = texts(error, ContextKind::SuggestedSubcommand);
            if verbs.is_empty() {
                // `help` is not told what the parser would suggest.
                let all = crate::help::groups().into_iter().flat_map(|(_, verbs)| verbs);
                verbs = all.map(str::to_owned).collect();
            }
            let likely = closest(&given, verbs.iter().map(String::as_str))
                .map(|likely| format!("did you mean `{likely}`? "));
            (
                format!("there is no verb `{given}`"),
                format!("{}`{verb} --help` lists all", likely.unwrap_or_default()),
            )
        }
        ErrorKind::UnknownArgument => {
            let given = one(ContextKind::InvalidArg);
            let what = if given.starts_with('-') {
                format!("`{verb}` has no option `{given}`")
            } else {
                format!("`{verb}` has no use for `{given}`")
            };
            let hint = text(error, ContextKind::SuggestedArg)
                .map(|likely| format!("did you mean `{likely}`?"));
            (what, hint.unwrap_or(see_help))
        }
        ErrorKind::MissingRequiredArgument => {
            (format!("`{verb}` needs {}", one(ContextKind::InvalidArg)), see_help)
        }
        ErrorKind::MissingSubcommand => (format!("`{verb}` needs a verb"), see_help),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => value(error, see_help),
        ErrorKind::ArgumentConflict => {
            let (argument, other) = (one(ContextKind::InvalidArg), one(ContextKind::PriorArg));
            let what = if argument == other || other.is_empty() {
                format!("`{argument}` is given twice")
            } else {
                format!("`{argument}` and `{other}` can't go together")
            };
            (what, see_help)
        }
        ErrorKind::InvalidUtf8 => (
            "an argument is not valid UTF-8".to_owned(),
            "only file names may hold other bytes; retype it".to_owned(),
        ),
        _ => (first_sentence(error), see_help),
    };
    Failure::new(Code::Usage, what, hint)
}

/// A value that an option or argument does not take.
fn value(error: &clap::Error, see_help: String) -> (String, String) {
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // `--sites <N>`, `[APP]`.
    let name = match argument.split_once(' ') {
        Some((option, _)) => option,
        None => argument.trim_matches(['<', '>', '[', ']', '.']),
    };
    let given = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let valid = texts(error, ContextKind::ValidValue);
    if given.is_empty() && valid.is_empty() {
        return (format!("`{name}` needs a value"), see_help);
    }
    let what = match error.source().map(|reason| reason.to_string()) {
        // Types of ours say what they were given.
        Some(reason) if reason.starts_with('"') => format!("`{name}`: {reason}"),
        Some(reason) => format!("`{name}` can't be {given:?}: {}", plain(&reason)),
        None => format!("`{name}` can't be {given:?}"),
    };
    let likely = closest(&given, valid.iter().map(String::as_str));
    let hint = match (likely, valid.is_empty()) {
        (Some(likely), _) => format!("did you mean `{likely}`?"),
        (None, false) => format!("choose one of {}", valid.join(", ")),
        (None, true) => see_help,
    };
    (what, hint)
}

/// What the standard library says of numbers, in words.
fn plain(reason: &str) -> String {
    if let Some((number, range)) = reason.split_once(" is not in ")
        && let Some((from, to)) = range.split_once("..=")
    {
        return format!("{number} is not from {from} to {to}");
    }
    match reason {
        "invalid digit found in string" => "write a whole number".to_owned(),
        "cannot parse integer from empty string" => "it is empty".to_owned(),
        "number too large to fit in target type" => "the number is too large".to_owned(),
        "invalid socket address syntax" => "write ADDRESS:PORT, such as 127.0.0.1:7070".to_owned(),
        _ => reason.to_owned(),
    }
}

/// `selvedge VERB`, as far as the words name one, so that hints can name its help.
fn verb(line: &[String]) -> String {
    let definition = crate::help::command();
    let mut command = &definition;
    let mut path = definition.get_name().to_owned();
    for word in line.iter().skip(1) {
        let Some(verb) = command.find_subcommand(word) else { continue };
        path = format!("{path} {word}");
        command = verb;
    }
    path
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    let texts = texts(error, kind);
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

/// What the parser itself says, without its label and the usage below.
fn first_sentence(error: &clap::Error) -> String {
    let all = error.render().to_string();
    let first = all.lines().next().unwrap_or_default();
    first.trim_start_matches("error:").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use crate::help;

    #[test]
    fn wrong_command_lines_in_words() {
        let say = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let error = help::command().try_get_matches_from(&words).unwrap_err();
            let failure = super::failure(&error, &words);
            format!("{line}\n  {}\n  {}\n", failure.what(), failure.hint.unwrap())
        };
        let all: String = [
            "selvedge statsu",
            "selvedge xyzzy",
            "selvedge status --jsn",
            "selvedge status one two",
            "selvedge curl",
            "selvedge dev --sites many",
            "selvedge dev --http 99999",
            "selvedge dev --restart-after soon",
            "selvedge dev --sites 2 --sites 3",
            "selvedge dev --sites",
            "selvedge dev --log-mib 0",
            "selvedge help lgos",
            "selvedge status Shop!",
            "selvedge completions basj",
            "selvedge completions tcsh",
            "selvedge control --data d --topology t --listen here",
        ]
        .map(say)
        .concat();
        insta::assert_snapshot!(all);
    }
}
