//! Django, and what is built on it: the settings say what must be done before it serves.

use super::super::{Process, Service, Variable};
use super::packages::Source;
use super::{Found, KEEP_ALIVE_S, Project, gunicorn, objects};

impl Project<'_> {
    pub(super) fn django(&self) -> Option<Found> {
        let manage = self.tree.text("manage.py")?;
        let module = settings_module(&manage)?;
        let project = module.split('.').next().unwrap_or(&module).to_owned();
        let settings = self.settings(&module);
        let (command, server) = self.django_server(&project);
        let own = server.starts_with("Django");
        let mut process = Process::new(command, format!("{server} serves the project {project}."));
        process.health = self.health();
        process.memory_mib = Some(384);
        process.start_timeout_s = Some(60);
        let what = if self.has("wagtail") { "a Wagtail site" } else { "a Django application" };
        let mut found =
            Found::new(what, Service::Process(process), format!("manage.py: settings in {module}"));
        if self.packages.source == Source::None {
            found.more = self.unlisted(&["django"]);
        }
        if settings.lines().any(|line| line.starts_with("STATIC_ROOT")) {
            found
                .after
                .push(".venv/bin/python manage.py collectstatic --noinput --verbosity 0".into());
        }
        if settings.contains("sqlite3") {
            found.after.push(".venv/bin/python manage.py migrate --noinput --verbosity 0".into());
            found.look_at.push("the database is SQLite: `migrate` makes it in the build, each site has a copy of its own in memory, and what is written there is lost at the next restart. Use a database server for what must last".into());
        } else if settings.contains("DATABASES") {
            found.look_at.push(
                "migrations are not run: do that where the database is, before the push".into(),
            );
        }
        if own {
            found.look_at.push("Django's own server is meant for development: add gunicorn to the requirements and run `selvedge init --force` for one that is not".into());
        }
        settings_to_see(&settings, own, &mut found.look_at);
        if self.has_tests() {
            found.notes.push("its tests are not run at each push; to have that, add test = \".venv/bin/python manage.py test\"".into());
        }
        let (secrets, plain): (Vec<_>, Vec<_>) =
            required(&settings).into_iter().partition(|name| is_secret(name));
        for name in plain {
            found.environment.push(Variable::new(&name, "change-me", "The settings ask for it and do not start without it. The file is in git: no secrets."));
            found.look_at.push(format!(
                "the settings need the variable {name}: give it a value in [app.environment]"
            ));
        }
        if !secrets.is_empty() {
            make_secrets(&secrets, &mut found);
        }
        Some(found)
    }

    /// The command, and whose server that is.
    fn django_server(&self, project: &str) -> (String, &'static str) {
        let wsgi = self.tree.has(&format!("{project}/wsgi.py"));
        let asgi = self.tree.has(&format!("{project}/asgi.py"));
        if self.has("gunicorn") && wsgi {
            (gunicorn(&format!("{project}.wsgi"), None), "gunicorn")
        } else if self.has("uvicorn") && asgi {
            (
                format!(
                    "exec .venv/bin/uvicorn {project}.asgi:application --host 127.0.0.1 --port $PORT --timeout-keep-alive {KEEP_ALIVE_S}"
                ),
                "uvicorn",
            )
        } else if self.has("daphne") && asgi {
            (
                format!("exec .venv/bin/daphne -b 127.0.0.1 -p $PORT {project}.asgi:application"),
                "daphne",
            )
        } else if self.has("waitress") && wsgi {
            (
                format!(
                    "exec .venv/bin/waitress-serve --listen=127.0.0.1:$PORT --channel-timeout={KEEP_ALIVE_S} {project}.wsgi:application"
                ),
                "waitress",
            )
        } else {
            (
                "exec .venv/bin/python manage.py runserver --noreload 127.0.0.1:$PORT".to_owned(),
                "Django's own server",
            )
        }
    }

    /// The texts of the settings: one module, or a package of several.
    fn settings(&self, module: &str) -> String {
        let path = module.replace('.', "/");
        let mut text = self.tree.text(&format!("{path}.py")).unwrap_or_default();
        let folder = if text.is_empty() {
            path
        } else {
            path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
        };
        for name in ["__init__", "base", "common", "default"] {
            if let Some(more) =
                self.tree.text(&format!("{folder}/{name}.py")).filter(|more| more.contains(" = "))
            {
                text.push('\n');
                text.push_str(&more);
            }
        }
        text
    }

    fn has_tests(&self) -> bool {
        self.tree
            .files()
            .filter(|path| {
                path.ends_with("tests.py")
                    || path
                        .rsplit('/')
                        .next()
                        .is_some_and(|file| file.starts_with("test_") && file.ends_with(".py"))
            })
            .filter_map(|path| self.tree.text(path))
            .any(|text| text.contains("def test"))
    }
}

/// Whether a variable holds what nobody may know, by its name.
fn is_secret(name: &str) -> bool {
    ["KEY", "SECRET", "TOKEN", "PASSWORD"].iter().any(|part| name.contains(part))
}

/// Has the build make a value for each of these, which is the same from then on, and has the program
/// and what follows in the build take them where the environment has none.
fn make_secrets(names: &[String], found: &mut Found) {
    let list = names.join(" ");
    let set = |name: &String| format!("{name}=\"${{{name}:-$(cat .secrets/{name})}}\"");
    let export = format!("export {}", names.iter().map(set).collect::<Vec<_>>().join(" "));
    let make = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'";
    found.after.splice(
        0..0,
        [
            "mkdir -p $HOME/secrets .secrets".to_owned(),
            format!("for name in {list}; do test -s $HOME/secrets/$name || {make} > $HOME/secrets/$name; done"),
            "cp $HOME/secrets/* .secrets/".to_owned(),
            export.clone(),
        ],
    );
    if let Service::Process(process) = &mut found.service {
        process.command = format!("{export}; {}", process.command);
    }
    for name in names {
        found.look_at.push(format!(
            "the settings need the variable {name}, and git is no place for its value: the first build makes a random one, keeps it in the app's cache and puts it into each release. If another service gives {name} out, that one must be in the program's environment"
        ));
    }
}

/// The module that manage.py names.
fn settings_module(manage: &str) -> Option<String> {
    let after = manage.split("DJANGO_SETTINGS_MODULE").nth(1)?;
    let after = after.get(1..)?.trim_start_matches([',', ')', ' ', '=', ']', '\n', '\t']);
    let mark = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let module = after.get(1..)?.split(mark).next()?;
    module.split('.').all(objects::is_name).then(|| module.to_owned())
}

/// What of the settings belongs to one machine.
fn settings_to_see(settings: &str, own_server: bool, look_at: &mut Vec<String>) {
    let line = |name: &str| {
        settings.lines().rev().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
        })
    };
    let hosts = line("ALLOWED_HOSTS").unwrap_or("ALLOWED_HOSTS = []");
    if hosts.contains("[]") {
        look_at.push("ALLOWED_HOSTS is empty: with DEBUG it answers at NAME.localhost and nowhere else; put the app's host there, such as \"NAME.edge.test\" (in a box) or \".example.com\"".into());
    }
    if line("DEBUG").is_some_and(|line| line.contains("True")) {
        look_at.push("DEBUG is True, which shows settings to whoever makes an error: set it to False for users".into());
    }
    if line("SECRET_KEY").is_some_and(|line| line.contains('"') || line.contains('\''))
        && line("SECRET_KEY")
            .is_some_and(|line| !line.contains("environ") && !line.contains("env("))
    {
        look_at.push("SECRET_KEY stands in the settings, and so in git: whoever reads the repository can forge sessions".into());
    }
    if !own_server && !settings.contains("whitenoise") && settings.contains("STATIC_URL") {
        look_at.push("static files are not served by the server of the application: add whitenoise to it, or a static [[service]] over STATIC_ROOT".into());
    }
}

/// Variables without which the settings raise an error: `os.environ["NAME"]`.
fn required(settings: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in settings.split("environ[").skip(1) {
        let name =
            part.trim_start_matches(['"', '\'']).split(['"', '\'']).next().unwrap_or_default();
        let is_set = part.split(']').nth(1).is_some_and(|rest| rest.trim_start().starts_with("= "));
        let plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let fits = plain && name.starts_with(|c: char| c.is_ascii_uppercase()) && name.len() <= 64;
        let known = name == "PORT" || name == "PATH" || name.starts_with("SELVEDGE_");
        if fits && !is_set && !known && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names.truncate(16);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_understood() {
        let manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'my_site.settings.dev')\n";
        assert_eq!(settings_module(manage).as_deref(), Some("my_site.settings.dev"));
        assert_eq!(
            settings_module("os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", name)"),
            None
        );
        let settings = "A = os.environ[\"API_KEY\"]\nos.environ['TZ'] = 'UTC'\nB = os.environ['API_KEY']\nP = os.environ['PORT']\n";
        assert_eq!(required(settings), ["API_KEY"]);
        for (name, secret) in [("SECRET_KEY", true), ("DB_PASSWORD", true), ("REGION", false)] {
            assert_eq!(is_secret(name), secret, "{name}");
        }
    }
}
