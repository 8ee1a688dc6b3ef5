//! The command's definition as people and shells see it: the verbs in the order of what one wants
//! to do, where the parser's own help lists them in one column.

use clap::{Command, CommandFactory as _};

use crate::cli::Cli;

/// Verbs by what people want to do, a line each. A verb that is not here is in no help: a test sees
/// to it.
const ORDER: &[(&str, &str)] = &[
    ("Start here", "dev"),
    ("Start here", "demo"),
    ("Bring an app live", "init"),
    ("Bring an app live", "check"),
    ("Bring an app live", "plan"),
    ("Bring an app live", "deploy"),
    ("Bring an app live", "remote"),
    ("Bring an app live", "releases"),
    ("Bring an app live", "rollback"),
    ("Bring an app live", "apps"),
    ("Bring an app live", "purge"),
    ("See how it is", "status"),
    ("See how it is", "logs"),
    ("See how it is", "ps"),
    ("See how it is", "why"),
    ("See how it is", "sites"),
    ("See how it is", "console"),
    ("See how it is", "curl"),
    ("See how it is", "ops"),
    ("See how it is", "doctor"),
    ("Run the parts by themselves", "control"),
    ("Run the parts by themselves", "agent"),
    ("Run the parts by themselves", "proxy"),
    ("Set up this machine", "completions"),
    ("Set up this machine", "man"),
    ("Set up this machine", "schema"),
];

/// The groups in order, each with its verbs.
pub(crate) fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (heading, verb) in ORDER {
        match groups.last_mut() {
            Some((last, verbs)) if last == heading => verbs.push(verb),
            _ => groups.push((heading, vec![verb])),
        }
    }
    groups
}

/// The whole definition, with the grouped help of the top.
pub(crate) fn command() -> Command {
    let command = Cli::command();
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{}Options:\n{{options}}{{after-help}}",
        verbs(&command)
    );
    command.help_template(template).after_help(
        "`selvedge VERB --help` shows a verb's options and examples. \
         The guide begins with docs/guide/first-steps.md.",
    )
}

fn verbs(command: &Command) -> String {
    let width = command.get_subcommands().map(|verb| verb.get_name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for (heading, names) in groups() {
        text.push_str(&format!("{heading}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<width$}  {about}\n"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_one_group() {
        let command = Cli::command();
        let mut listed: Vec<&str> = ORDER.iter().map(|(_, verb)| *verb).collect();
        let mut verbs: Vec<&str> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(Command::get_name)
            .collect();
        listed.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(listed, verbs, "help.rs must list each verb of cli.rs in one group");
    }

    #[test]
    fn every_verb_has_examples_and_each_can_be_parsed() {
        fn check(verb: &Command, path: &str) {
            if verb.is_hide_set() {
                return;
            }
            let path = format!("{path} {}", verb.get_name());
            let nested: Vec<&Command> = verb.get_subcommands().collect();
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.starts_with("Examples:\n") || !nested.is_empty(),
                "`{path}` has no `after_help = \"Examples:\\n  selvedge ...\"`"
            );
            for line in help.lines().filter(|line| line.trim_start().starts_with("selvedge ")) {
                // The rest is the shell's.
                let ends = ["  #", " > ", " | "].map(|end| line.find(end).unwrap_or(line.len()));
                let words = line[..ends.into_iter().min().unwrap()].replace(['\'', '"'], "");
                if let Err(error) = command().try_get_matches_from(words.split_whitespace()) {
                    panic!("the example {words:?} of `{path}` can't be parsed: {error}");
                }
            }
            nested.into_iter().for_each(|verb| check(verb, &path));
        }
        Cli::command().get_subcommands().for_each(|verb| check(verb, "selvedge"));
    }

    /// `BLESS=1 cargo test -p selvedge help::` writes the page.
    #[test]
    fn the_guide_describes_the_command_line_as_it_is() {
        let page = crate::manual::markdown(command());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/command-line.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page,
            "docs/guide/command-line.md is stale; `BLESS=1 cargo test -p selvedge help::` writes it"
        );
    }
}
