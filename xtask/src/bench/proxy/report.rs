//! Results: what is stored as JSON, and the tables that are printed and put into the docs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The docs have the tables between these lines.
const BEGIN: &str = "<!-- tables: begin -->";
const END: &str = "<!-- tables: end -->";

/// The column that all others are compared with.
const OWN: &str = "Selvedge";

#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    /// Of the proxies and of the load programs.
    pub(super) versions: BTreeMap<String, String>,
    pub(super) began: String,
    pub(super) runs: usize,
    pub(super) seconds: u64,
    /// In the order of the columns.
    pub(super) peers: Vec<String>,
    pub(super) rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// CPU µs of the proxy's processes for each request.
    CpuMicros,
    Bytes,
    UpstreamRequests,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) title: String,
    pub(super) unit: Unit,
    /// Of the machine when the case began: more than two says that others were at work.
    pub(super) load_average: f64,
    /// By the peer's name.
    pub(super) cells: BTreeMap<String, Cell>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) samples: Vec<f64>,
    /// Runs that do not count, and why.
    pub(super) thrown: Vec<String>,
    /// Why there are no samples.
    pub(super) reason: Option<String>,
}

impl Cell {
    pub(super) fn lacking(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut samples = self.samples.clone();
        samples.sort_unstable_by(f64::total_cmp);
        samples
    }

    fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        let upper = sorted.get(middle)?;
        let lower = if sorted.len().is_multiple_of(2) { sorted.get(middle - 1)? } else { upper };
        Some(f64::midpoint(*lower, *upper))
    }

    fn range(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        Some((*sorted.first()?, *sorted.last()?))
    }
}

impl Row {
    fn median(&self, peer: &str) -> Option<f64> {
        self.cells.get(peer)?.median()
    }

    fn spread(&self, peer: &str) -> String {
        match self.cells.get(peer).and_then(Cell::range) {
            Some((least, most)) => format!("{}–{}", self.number(least), self.number(most)),
            None => "–".to_owned(),
        }
    }

    /// Three digits are as many as a measurement of time has.
    fn number(&self, value: f64) -> String {
        match value {
            small if self.unit == Unit::CpuMicros && small < 10.0 => format!("{small:.2}"),
            middle if self.unit == Unit::CpuMicros && middle < 100.0 => format!("{middle:.1}"),
            large => format!("{large:.0}"),
        }
    }
}

impl Report {
    /// What people read, in Markdown.
    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        for (unit, heading) in [
            (Unit::CpuMicros, "CPU µs per request"),
            (Unit::Bytes, "Bytes of memory for each"),
            (Unit::UpstreamRequests, "Requests that reach the origin"),
        ] {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.unit == unit).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = write!(text, "### {heading}\n\n");
            let _ = writeln!(text, "Medians. In brackets: Selvedge's as a share of the peer's.\n");
            self.table(&mut text, &rows, |row, peer| self.compared(row, peer));
            let _ = writeln!(text, "\nLeast and most:\n");
            self.table(&mut text, &rows, Row::spread);
            text.push('\n');
        }
        text.push_str(&self.handshakes());
        text.push_str(&self.reasons());
        text.push_str(&self.conditions());
        text
    }

    fn table(&self, text: &mut String, rows: &[&Row], cell: impl Fn(&Row, &str) -> String) {
        let _ = writeln!(text, "| | {} |", self.peers.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(self.peers.len()));
        for row in rows {
            let cells: Vec<String> = self.peers.iter().map(|peer| cell(row, peer)).collect();
            let _ = writeln!(text, "| {} | {} |", row.title, cells.join(" | "));
        }
    }

    fn compared(&self, row: &Row, peer: &str) -> String {
        let Some(median) = row.median(peer) else { return "–".to_owned() };
        match row.median(OWN).filter(|_| peer != OWN) {
            Some(own) => format!("{} ({:.2})", row.number(median), own / median),
            None => row.number(median),
        }
    }

    fn handshakes(&self) -> String {
        let Some(row) = self.rows.iter().find(|row| row.case == "handshakes") else {
            return String::new();
        };
        let each = self.peers.iter().filter_map(|peer| {
            row.median(peer).map(|micros| format!("{peer} {:.0}", 1_000_000.0 / micros))
        });
        let each: Vec<String> = each.collect();
        format!("TLS handshakes per CPU second: {}.\n\n", each.join(", "))
    }

    /// Why cells are empty, and which runs were thrown away.
    fn reasons(&self) -> String {
        let mut by_reason: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        let mut thrown = Vec::new();
        for row in &self.rows {
            for (peer, cell) in &row.cells {
                if let Some(reason) = &cell.reason {
                    by_reason.entry((peer, reason)).or_default().push(&row.case);
                }
                thrown
                    .extend(cell.thrown.iter().map(|why| format!("- {peer}, {}: {why}", row.case)));
            }
        }
        let mut text = String::new();
        if !by_reason.is_empty() {
            text.push_str("Where there is no figure:\n\n");
            for ((peer, reason), cases) in by_reason {
                let _ = writeln!(text, "- {peer}: {reason} ({})", cases.join(", "));
            }
            text.push('\n');
        }
        if !thrown.is_empty() {
            let _ = write!(text, "Runs that were thrown away:\n\n{}\n\n", thrown.join("\n"));
        }
        text
    }

    fn conditions(&self) -> String {
        let Machine { cpu, cores, memory_mib, kernel } = &self.machine;
        let loads = self.rows.iter().map(|row| row.load_average);
        let busiest = loads.fold(0.0, f64::max);
        let mut text = format!(
            "Measured on {}: {cpu}, {cores} cores, {} GiB, Linux {kernel}; {} runs of {} s each; \
             load average up to {busiest:.1}.\n\n",
            self.began,
            memory_mib / 1024,
            self.runs,
            self.seconds
        );
        let versions = self.versions.iter().map(|(name, version)| format!("{name} {version}"));
        let versions: Vec<String> = versions.collect();
        let _ = writeln!(text, "Versions: {}.", versions.join(", "));
        text
    }

    /// Replaces what stands between the marks of a page.
    pub(super) fn put_into(&self, page: &Path) -> anyhow::Result<()> {
        let shown = page.display();
        let text = std::fs::read_to_string(page).with_context(|| format!("can't read {shown}"))?;
        let (before, rest) =
            text.split_once(BEGIN).with_context(|| format!("{shown}: no {BEGIN}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{shown}: no {END}"))?;
        let tables = self.tables();
        let new = format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", tables.trim());
        std::fs::write(page, new).with_context(|| format!("can't write {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cell = |samples: &[f64]| Cell { samples: samples.to_vec(), ..Cell::default() };
        let cells = [
            ("Selvedge".to_owned(), cell(&[8.0, 7.0, 9.0])),
            ("nginx".to_owned(), cell(&[15.0, 17.0])),
            ("Caddy".to_owned(), Cell::lacking("it has no cache")),
        ];
        Report {
            machine: Machine {
                cpu: "x".to_owned(),
                cores: 2,
                memory_mib: 2048,
                kernel: "6".to_owned(),
            },
            versions: BTreeMap::new(),
            began: "2026-01-01".to_owned(),
            runs: 3,
            seconds: 1,
            peers: cells.iter().map(|(peer, _)| peer.clone()).collect(),
            rows: vec![Row {
                case: "hit-1k-h1".to_owned(),
                title: "cached 1 KiB".to_owned(),
                unit: Unit::CpuMicros,
                load_average: 1.0,
                cells: cells.into_iter().collect(),
            }],
        }
    }

    #[test]
    fn a_table_has_medians_ratios_and_reasons() {
        let text = report().tables();
        assert!(text.contains("| cached 1 KiB | 8.00 | 16.0 (0.50) | – |"), "{text}");
        assert!(text.contains("| cached 1 KiB | 7.00–9.00 | 15.0–17.0 | – |"), "{text}");
        assert!(text.contains("- Caddy: it has no cache (hit-1k-h1)"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        std::fs::write(&page, format!("a\n{BEGIN}\nold\n{END}\nb\n")).unwrap();
        report().put_into(&page).unwrap();
        let once = std::fs::read_to_string(&page).unwrap();
        assert!(once.starts_with("a\n") && once.ends_with("\nb\n") && !once.contains("old"));
        report().put_into(&page).unwrap();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), once);
    }
}
