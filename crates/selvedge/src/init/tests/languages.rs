//! Python and Java.

use super::{Case, Detection, GET_PIP, TOOL, Tree, check, detect, written};

const VENV: &str = "python3 -m venv --without-pip .venv";
const SETTINGS: &str = "DEBUG = True\nSECRET_KEY = 'x'\nALLOWED_HOSTS = []\nKEY = os.environ['SECRET_KEY']\nR = os.environ['REGION']\nT = os.environ['API_TOKEN']\nDATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3'}}\n";
const MANAGE: &str = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')";

const PYTHON: &[Case] = &[
    Case {
        files: &[
            ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
            ("requirements.txt", "flask==3.1.0\ngunicorn==23.0.0\n"),
        ],
        what: "a Flask application",
        build: &[VENV, TOOL, GET_PIP, "PIP -r requirements.txt"],
        service: "exec .venv/bin/gunicorn --bind 127.0.0.1:$PORT app:app",
        look_at: "",
    },
    Case {
        files: &[
            ("shop/__init__.py", "def create_app():\n    app = Flask(__name__)\n"),
            ("pyproject.toml", "[project]\nname='shop'\ndependencies=['flask']\n"),
        ],
        what: "a Flask application",
        build: &[
            VENV,
            TOOL,
            GET_PIP,
            "$HOME/pip/bin/python -c \"import importlib, sys; toml = importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'pip._vendor.tomli'); print(*toml.load(open('pyproject.toml', 'rb'))['project'].get('dependencies', []), sep=chr(10))\" > .venv/requirements.txt",
            "PIP -r .venv/requirements.txt",
        ],
        service: "exec .venv/bin/flask --app 'shop:create_app()' run --host 127.0.0.1 --port $PORT",
        look_at: "meant for development",
    },
    Case {
        files: &[("hello.py", "from flask import Flask\nsite = Flask(__name__)\n")],
        what: "a Flask application",
        build: &[VENV, TOOL, GET_PIP, "PIP flask"],
        service: "exec .venv/bin/flask --app hello:site run --host 127.0.0.1 --port $PORT",
        look_at: "no file lists the packages",
    },
    Case {
        files: &[
            ("main.py", "app = FastAPI()\n@app.get(\"/healthz\")\n"),
            ("requirements.txt", "fastapi==0.115.0\n"),
        ],
        what: "a FastAPI application",
        build: &[VENV, TOOL, GET_PIP, "PIP -r requirements.txt uvicorn"],
        service: "exec .venv/bin/uvicorn main:app --host 127.0.0.1 --port $PORT --timeout-keep-alive 120",
        look_at: "",
    },
    Case {
        files: &[
            ("src/api/main.py", "app = FastAPI()\n"),
            ("src/api/__init__.py", ""),
            ("pyproject.toml", "[project]\nname='api'\ndependencies=['fastapi[standard]']\n"),
            ("uv.lock", ""),
        ],
        what: "a FastAPI application",
        build: &[
            "python3 -m venv --without-pip .venv",
            "python3 -m venv $HOME/uv",
            "$HOME/uv/bin/python -m pip --quiet install --no-input --disable-pip-version-check uv",
            "UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never $HOME/uv/bin/uv sync --quiet --frozen --no-dev --no-editable",
        ],
        service: "exec .venv/bin/uvicorn api.main:app --host 127.0.0.1 --port $PORT --timeout-keep-alive 120",
        look_at: "",
    },
    Case {
        files: &[
            ("manage.py", MANAGE),
            ("mysite/settings.py", SETTINGS),
            ("mysite/wsgi.py", ""),
            ("requirements.txt", "Django==5.2\ngunicorn==23.0.0\n"),
        ],
        what: "a Django application",
        build: &[
            VENV,
            TOOL,
            GET_PIP,
            "PIP -r requirements.txt",
            "mkdir -p $HOME/secrets .secrets",
            "for name in SECRET_KEY API_TOKEN; do test -s $HOME/secrets/$name || python3 -c 'import secrets; print(secrets.token_urlsafe(48))' > $HOME/secrets/$name; done",
            "cp $HOME/secrets/* .secrets/",
            "export SECRET_KEY=\"${SECRET_KEY:-$(cat .secrets/SECRET_KEY)}\" API_TOKEN=\"${API_TOKEN:-$(cat .secrets/API_TOKEN)}\"",
            ".venv/bin/python manage.py migrate --noinput --verbosity 0",
        ],
        service: "export SECRET_KEY=\"${SECRET_KEY:-$(cat .secrets/SECRET_KEY)}\" API_TOKEN=\"${API_TOKEN:-$(cat .secrets/API_TOKEN)}\"; exec .venv/bin/gunicorn --bind 127.0.0.1:$PORT mysite.wsgi",
        look_at: "the settings need the variable SECRET_KEY, and git is no place for its value",
    },
    Case {
        files: &[
            ("manage.py", MANAGE),
            ("mysite/settings.py", "STATIC_ROOT = 'x'\n"),
            ("package.json", r#"{"scripts":{"start":"vite"},"devDependencies":{"vite":"5"}}"#),
        ],
        what: "a Django application",
        build: &[
            VENV,
            TOOL,
            GET_PIP,
            "PIP django",
            ".venv/bin/python manage.py collectstatic --noinput --verbosity 0",
        ],
        service: "exec .venv/bin/python manage.py runserver --noreload 127.0.0.1:$PORT",
        look_at: "ALLOWED_HOSTS is empty",
    },
    Case {
        files: &[
            ("requirements.txt", "datasette==0.65.1\n"),
            ("plants.db", ""),
            ("metadata.yaml", ""),
            ("templates/x.html", ""),
        ],
        what: "a Datasette over SQLite",
        build: &[VENV, TOOL, GET_PIP, "PIP -r requirements.txt"],
        service: "exec .venv/bin/datasette serve --immutable plants.db --metadata metadata.yaml --template-dir templates --host 127.0.0.1 --port $PORT",
        look_at: "",
    },
    Case {
        files: &[("data/plants.sqlite", "")],
        what: "a Datasette over SQLite",
        build: &[VENV, TOOL, GET_PIP, "PIP datasette"],
        service: "exec .venv/bin/datasette serve --immutable data/plants.sqlite --host 127.0.0.1 --port $PORT",
        look_at: "no file lists the packages",
    },
    Case {
        files: &[
            ("Procfile", "release: x\nweb: hypercorn --bind 127.0.0.1:$PORT x:app\n"),
            ("requirements.txt", "x==1\n"),
        ],
        what: "a Python application",
        build: &[VENV, TOOL, GET_PIP, "PIP -r requirements.txt"],
        service: "PATH=/app/.venv/bin:$PATH; exec hypercorn --bind 127.0.0.1:$PORT x:app",
        look_at: "",
    },
    Case {
        files: &[("server.py", "port = int(os.environ['PORT'])")],
        what: "a Python program",
        build: &[],
        service: "exec python3 server.py",
        look_at: "",
    },
];

#[test]
fn python_applications_are_recognised() {
    check(PYTHON);
}

#[test]
fn no_secret_is_written() {
    let files = [
        ("manage.py", MANAGE),
        ("mysite/settings.py", SETTINGS),
        ("requirements.txt", "Django==5.2\n"),
    ];
    let Detection::App(app) = detect(&Tree::of(&files)) else { panic!() };
    let names: Vec<_> = written(&app, "shop").environment.into_keys().collect();
    assert_eq!(names, ["REGION", "SOURCE_DATE_EPOCH"]);
}

const MAIN: &str =
    "public class Main {\n public static void main(String[] a) { System.getenv(\"PORT\"); } }";

const JAVA: &[Case] = &[
    Case {
        files: &[("Main.java", MAIN)],
        what: "a Java program",
        build: &["javac -encoding UTF-8 -d classes Main.java"],
        service: "exec java -Xmx320m -XX:+UseSerialGC -cp classes Main",
        look_at: "",
    },
    Case {
        files: &[
            (
                "src/shop/Shop.java",
                "package shop;\nclass Shop { public static void main(String... a) {} }",
            ),
            ("src/shop/Cart.java", "package shop; class Cart {}"),
            ("lib/json.jar", ""),
            ("lib/log.jar", ""),
        ],
        what: "a Java program",
        build: &[
            "javac -encoding UTF-8 -d classes -cp 'lib/*' $(find src -name '*.java' -not -path '*/test/*')",
        ],
        service: "exec java -Xmx320m -XX:+UseSerialGC -cp 'classes:lib/*' shop.Shop",
        look_at: "no source reads the variable PORT",
    },
    Case {
        files: &[("shop.jar", "PK..BOOT-INF/classes/..")],
        what: "a Spring Boot application",
        build: &[],
        service: "exec java -Xmx320m -XX:+UseSerialGC -jar shop.jar --server.port=$PORT --server.address=127.0.0.1 --server.shutdown=graceful",
        look_at: "",
    },
    Case {
        files: &[("target/shop-1.0.jar", "PK"), ("pom.xml", "")],
        what: "a Java program",
        build: &[],
        service: "exec java -Xmx320m -XX:+UseSerialGC -jar target/shop-1.0.jar",
        look_at: "",
    },
];

#[test]
fn java_programs_are_recognised() {
    check(JAVA);
}
