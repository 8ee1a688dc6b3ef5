//! Frameworks that render pages: as files, or in a server of their own.

use super::super::{Process, Service, Variable};
use super::{Found, Project, RENDERING_MIB, SOURCES, production, sites};

/// What `next build` fills unless its configuration names another directory.
const DIST: &str = ".next";

impl Project<'_> {
    fn bin(&self, command: &str) -> String {
        format!("node_modules/.bin/{command}")
    }

    /// The script `build`, or the framework's own command.
    fn build_or(&self, command: &str) -> Option<String> {
        Some(match self.package.script("build") {
            Some(_) => self.manager.run("build"),
            None => self.bin(command),
        })
    }

    /// Frameworks that render pages in a server of their own.
    pub(super) fn rendered(&self) -> Option<Found> {
        self.next().or_else(|| self.nuxt()).or_else(|| self.sveltekit()).or_else(|| self.astro())
    }

    fn next(&self) -> Option<Found> {
        self.package.at_build("next")?;
        let configs = ["next.config.js", "next.config.mjs", "next.config.ts", "next.config.cjs"];
        let config = self.tree.first(&configs);
        let text = config.and_then(|config| self.tree.text(config)).unwrap_or_default();
        let text = sites::without_comments(&text);
        let plain: String = text.split_whitespace().collect::<String>().replace('\'', "\"");
        let saw = config.map(|config| format!("{config}: its output"));
        let dist = sites::text_after(&text, "distDir").unwrap_or_else(|| DIST.into());
        if plain.contains("output:\"export\"") {
            let why = "The directory that `next build` fills when `output` is \"export\".";
            let service = Service::files(if dist == DIST { "out" } else { &dist }, why);
            let mut found = Found::new("a Next.js site, exported as files", service);
            found.saw.extend(saw);
            self.built_by_next(&mut found);
            return Some(found);
        }
        let own = self.package.script("start").filter(|script| script.starts_with("node "));
        if own.is_some() && !plain.contains("output:\"standalone\"") {
            return None;
        }
        let standalone = plain.contains("output:\"standalone\"");
        let mut process = if standalone {
            Process::new(
                format!("exec env HOSTNAME=127.0.0.1 node {dist}/standalone/server.js"),
                "The server that `next build` makes when `output` is \"standalone\"; it reads PORT.",
            )
        } else {
            Process::new(
                format!("exec {} --port $PORT --hostname 127.0.0.1", self.bin("next start")),
                "Next.js's own server, on the port that the site gives it.",
            )
        };
        process.memory_mib = Some(RENDERING_MIB);
        process.environment = production();
        let mut found = Found::new("a Next.js application", Service::Process(process));
        found.saw.push("package.json: next".into());
        self.built_by_next(&mut found);
        found.after.push(format!("rm -rf {dist}/cache"));
        if standalone {
            // It has the packages it needs beside it.
            found.after.push("rm -rf node_modules".into());
            found.after.push(format!("cp -R {dist}/static {dist}/standalone/{dist}/static"));
            if self.tree.has_directory("public") {
                found.after.push(format!("cp -R public {dist}/standalone/public"));
            }
        }
        // A configuration in TypeScript is read by the server too, with the compiler.
        found.can_prune = !config.is_some_and(|config| config.ends_with(".ts"));
        Some(found)
    }

    fn built_by_next(&self, found: &mut Found) {
        found.build = self.build_or("next build");
        let why = "Or each build reports itself to the makers of Next.js.";
        found.environment.push(Variable::new("NEXT_TELEMETRY_DISABLED", "1", why));
        let fonts = self.tree.sources(&SOURCES).into_iter().find(|path| {
            self.tree.text(path).is_some_and(|text| text.contains("next/font/google"))
        });
        if let Some(path) = fonts {
            found.look_at.push(format!("{path} has each build fetch fonts from fonts.googleapis.com, and fail where it can't: next/font/local takes them from the repository"));
        }
    }

    fn nuxt(&self) -> Option<Found> {
        self.package.at_build("nuxt")?;
        let script = self.package.script("build").unwrap_or("nuxt build");
        let mut found = if script.contains("generate") {
            let why = "The directory that `nuxt generate` fills.";
            let root = ".output/public";
            Found::new("a Nuxt site, generated as files", Service::files(root, why))
        } else {
            let why = "The server that `nuxt build` makes; it reads PORT and HOST.";
            let command = "exec env HOST=127.0.0.1 node .output/server/index.mjs";
            let mut process = Process::new(command, why);
            process.memory_mib = Some(RENDERING_MIB);
            process.environment = production();
            Found::new("a Nuxt application", Service::Process(process))
        };
        found.build = self.build_or("nuxt build");
        found.saw.push("package.json: nuxt".into());
        found.after.push("rm -rf node_modules".into());
        Some(found)
    }

    fn sveltekit(&self) -> Option<Found> {
        self.package.at_build("@sveltejs/kit")?;
        let mut found = if self.package.has("@sveltejs/adapter-static") {
            let why = "The directory that SvelteKit's static adapter fills.";
            Found::new("a SvelteKit site", Service::files("build", why))
        } else {
            let why = "The server that SvelteKit's Node adapter makes; it reads PORT and HOST.";
            let mut process = Process::new("exec env HOST=127.0.0.1 node build", why);
            process.environment = production();
            let mut found = Found::new("a SvelteKit application", Service::Process(process));
            found.can_prune = true;
            if !self.package.has("@sveltejs/adapter-node") {
                found.look_at.push("SvelteKit needs an adapter: install @sveltejs/adapter-node (a server) or @sveltejs/adapter-static (files), and name it in svelte.config.js".into());
            }
            found
        };
        found.build = self.build_or("vite build");
        found.saw.push("package.json: @sveltejs/kit".into());
        Some(found)
    }

    fn astro(&self) -> Option<Found> {
        self.package.at_build("@astrojs/node")?;
        let why = "The server that Astro's Node adapter makes; it reads PORT and HOST.";
        let command = "exec env HOST=127.0.0.1 node dist/server/entry.mjs";
        let mut process = Process::new(command, why);
        process.environment = production();
        let mut found = Found::new("an Astro application", Service::Process(process));
        found.build = self.build_or("astro build");
        found.saw.push("package.json: @astrojs/node".into());
        found.can_prune = true;
        Some(found)
    }
}
