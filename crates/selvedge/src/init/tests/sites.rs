//! Sites and Node.js servers.

use super::{Case, GET_PIP, TOOL, check};

const SITES: &[Case] = &[
    Case {
        files: &[("index.html", ""), ("style.css", "")],
        what: "a static site of plain files",
        build: &[],
        service: "root .",
        look_at: "every committed file here is public",
    },
    Case {
        files: &[("public/index.html", ""), ("README.md", "")],
        what: "a static site of plain files",
        build: &[],
        service: "root public",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"name":"v","scripts":{"dev":"vite","build":"tsc -b && vite build","preview":"vite preview"},"devDependencies":{"vite":"^8"}}"#,
            ),
            ("index.html", ""),
            ("package-lock.json", "{}"),
            ("vite.config.ts", "export default defineConfig({})"),
        ],
        what: "a Vite site",
        build: &["npm ci --include=dev --no-audit --no-fund", "npm run build"],
        service: "root dist",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"start":"vite","build":"vite build"},"dependencies":{"vite":"^8","react-router-dom":"7"}}"#,
            ),
            ("vite.config.js", "export default { build: { outDir: './site' } }"),
        ],
        what: "a Vite site",
        build: &["npm install --include=dev --no-audit --no-fund", "npm run build"],
        service: "root site, else index.html",
        look_at: "there is no lockfile",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"start":"next start","build":"next build"},"dependencies":{"next":"15"}}"#,
            ),
            ("package-lock.json", "{}"),
            (
                "next.config.mjs",
                "// output: 'standalone'\nexport default {\n  output: 'export',\n}",
            ),
        ],
        what: "a Next.js site, exported as files",
        build: &["npm ci --include=dev --no-audit --no-fund", "npm run build"],
        service: "root out",
        look_at: "",
    },
    Case {
        files: &[
            ("package.json", r#"{"scripts":{"build":"next build"},"dependencies":{"next":"15"}}"#),
            ("package-lock.json", "{}"),
            ("next.config.js", "module.exports = { output: 'export', distDir: './dist' }"),
        ],
        what: "a Next.js site, exported as files",
        build: &["npm ci --include=dev --no-audit --no-fund", "npm run build"],
        service: "root dist",
        look_at: "",
    },
    Case {
        files: &[
            ("package.json", r#"{"scripts":{"build":"next build"},"dependencies":{"next":"15"}}"#),
            ("package-lock.json", "{}"),
            ("next.config.js", "module.exports = { output: 'standalone', distDir: 'made' }"),
        ],
        what: "a Next.js application",
        build: &[
            "npm ci --include=dev --no-audit --no-fund",
            "npm run build",
            "rm -rf made/cache",
            "rm -rf node_modules",
            "cp -R made/static made/standalone/made/static",
        ],
        service: "exec env HOSTNAME=127.0.0.1 node made/standalone/server.js",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"start":"astro dev","dev":"astro dev","build":"astro build"},"dependencies":{"astro":"^5"}}"#,
            ),
            ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
        ],
        what: "an Astro site",
        build: &["npx --yes pnpm@10 install --frozen-lockfile", "npx --yes pnpm@10 run build"],
        service: "root dist",
        look_at: "",
    },
    Case {
        files: &[
            ("package.json", r#"{"devDependencies":{"@11ty/eleventy":"3"}}"#),
            ("package-lock.json", "{}"),
            ("index.md", ""),
            (".eleventy.js", "module.exports = () => ({ dir: { output: \"www\" } })"),
        ],
        what: "an Eleventy site",
        build: &["npm ci --include=dev --no-audit --no-fund", "node_modules/.bin/eleventy"],
        service: "root www",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"docs:build":"vitepress build docs"},"devDependencies":{"vitepress":"1"}}"#,
            ),
            ("docs/.vitepress/config.mts", ""),
            ("yarn.lock", "# yarn lockfile v1\n"),
        ],
        what: "a VitePress site",
        build: &[
            "npx --yes yarn@1.22.22 install --frozen-lockfile --non-interactive --production=false",
            "npx --yes yarn@1.22.22 run docs:build",
        ],
        service: "root docs/.vitepress/dist",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"start":"ng serve","build":"ng build"},"dependencies":{"@angular/core":"20"}}"#,
            ),
            ("package-lock.json", ""),
            (
                "angular.json",
                r#"{"projects":{"shop":{"architect":{"build":{"builder":"@angular/build:application","options":{}}}}}}"#,
            ),
        ],
        what: "an Angular site",
        build: &["npm ci --include=dev --no-audit --no-fund", "npm run build"],
        service: "root dist/shop/browser",
        look_at: "",
    },
    Case {
        files: &[("mkdocs.yml", "site_name: x\n"), ("requirements.txt", "mkdocs==1.6.1\n")],
        what: "a MkDocs site",
        build: &[
            "python3 -m venv --without-pip .venv",
            TOOL,
            GET_PIP,
            "PIP -r requirements.txt",
            ".venv/bin/mkdocs build --strict --quiet",
        ],
        service: "root site",
        look_at: "",
    },
];

#[test]
fn sites_are_recognised() {
    check(SITES);
}

const NODE: &[Case] = &[
    Case {
        files: &[
            (
                "package.json",
                r#"{"name":"express-app","scripts":{"start":"node ./bin/www"},"dependencies":{"express":"~4.16"}}"#,
            ),
            ("bin/www", "var port = process.env.PORT"),
            ("package-lock.json", ""),
        ],
        what: "an Express application",
        build: &["npm ci --omit=dev --no-audit --no-fund"],
        service: "exec node ./bin/www",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"packageManager":"pnpm@9.15.4+sha512.abc","scripts":{"build":"tsc","start":"node dist/main.js"},"dependencies":{"fastify":"5"},"devDependencies":{"typescript":"5"}}"#,
            ),
            ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
            (
                "src/main.ts",
                "app.listen({ port: Number(process.env.PORT) }); app.get('/healthz', ok)",
            ),
        ],
        what: "a Fastify application",
        build: &[
            "npx --yes pnpm@9.15.4 install --frozen-lockfile",
            "npx --yes pnpm@9.15.4 run build",
            "CI=true npx --yes pnpm@9.15.4 prune --prod --ignore-scripts",
        ],
        service: "exec node dist/main.js",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"packageManager":"yarn@4.9.1","scripts":{"start":"NODE_OPTIONS=--enable-source-maps tsx watch src/main.ts"},"dependencies":{"tsx":"4","koa":"2"}}"#,
            ),
            ("yarn.lock", "__metadata:\n  version: 8\n"),
        ],
        what: "a Koa application",
        build: &[
            "export YARN_HTTP_PROXY=$http_proxy YARN_HTTPS_PROXY=$https_proxy",
            "npx --yes --package=@yarnpkg/cli-dist@4.9.1 yarn install --immutable",
        ],
        service: "exec env NODE_OPTIONS=--enable-source-maps node_modules/.bin/tsx src/main.ts",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"dev":"next dev","build":"next build","start":"next start"},"dependencies":{"next":"15"}}"#,
            ),
            ("package-lock.json", ""),
            ("next.config.mjs", "export default {}"),
        ],
        what: "a Next.js application",
        build: &[
            "npm ci --include=dev --no-audit --no-fund",
            "npm run build",
            "rm -rf .next/cache",
            "npm prune --omit=dev --no-audit --no-fund",
        ],
        service: "exec node_modules/.bin/next start --port $PORT --hostname 127.0.0.1",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"start":"npm run serve","serve":"json-server --watch db.json --port 3000"},"devDependencies":{"json-server":"0.17"}}"#,
            ),
            ("package-lock.json", ""),
        ],
        what: "a JSON Server",
        // What it starts with is a tool of development, so that is installed too.
        build: &["npm ci --include=dev --no-audit --no-fund"],
        service: "exec node_modules/.bin/json-server db.json --port $PORT --host 127.0.0.1",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"prestart":"node seed.js","start":"node app.js"},"dependencies":{"express":"5"}}"#,
            ),
            ("package-lock.json", ""),
            ("app.js", "const app = express()\napp.listen(3000)\n"),
        ],
        what: "an Express application",
        build: &["npm ci --include=dev --no-audit --no-fund"],
        service: "exec npm start",
        look_at: "app.js:2 listens on a fixed port",
    },
    Case {
        files: &[
            ("package.json", r#"{"main":"index.js"}"#),
            ("index.js", "require('http').createServer(f).listen(process.env.PORT)"),
        ],
        what: "a Node.js program",
        build: &[],
        service: "exec node index.js",
        look_at: "",
    },
    // A package as it comes from the registry: built, and without its tests.
    Case {
        files: &[
            (
                "package.json",
                r#"{"name":"verdaccio","packageManager":"yarn@4.17.0","bin":"./bin/verdaccio","main":"build/index.js","scripts":{"build":"tsc","test":"vitest","start":"yarn babel-node src"},"dependencies":{"express":"4"}}"#,
            ),
            ("bin/verdaccio", ""),
            ("build/index.js", ""),
        ],
        what: "an Express application",
        build: &[
            "npm pkg delete devDependencies scripts.prepare",
            "npm install --omit=dev --no-audit --no-fund",
        ],
        service: "exec node bin/verdaccio --listen 127.0.0.1:$PORT",
        look_at: "there is no lockfile",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"scripts":{"build":"parcel build","test":"jest","start":"node dist/bin/peerjs.js --port ${PORT:=9000}"},"dependencies":{"express":"4"}}"#,
            ),
            ("package-lock.json", ""),
            ("dist/bin/peerjs.js", ""),
        ],
        what: "an Express application",
        build: &["npm ci --omit=dev --no-audit --no-fund"],
        service: "exec node dist/bin/peerjs.js --port ${PORT:=9000}",
        look_at: "",
    },
    Case {
        files: &[
            (
                "package.json",
                r#"{"name":"json-server","bin":"./lib/cli/bin.js","scripts":{"build":"babel src -d lib","test":"jest","start":"babel-node src/cli/bin"},"dependencies":{"express":"4"}}"#,
            ),
            ("package-lock.json", ""),
            ("lib/cli/bin.js", ""),
            ("dist/__tests__/x.test.js", ""),
        ],
        what: "an Express application",
        build: &["npm ci --omit=dev --no-audit --no-fund"],
        service: "exec node lib/cli/bin.js --port $PORT --host 127.0.0.1",
        look_at: "",
    },
];

#[test]
fn node_servers_are_recognised() {
    check(NODE);
}
