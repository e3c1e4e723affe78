//! Proxies that are visited in turn, and the table of what that found.

use std::io;

use crate::candidate::{BARE, Candidate, HAPROXY, Running, Site};
use crate::cores::{Cores, doing};
use crate::figures::Figures;
use crate::plan::Plan;
use crate::svg::{Chart, Shape};
use crate::visit::{Path, Visitor};

/// All that a mode needs.
pub(crate) struct Contest<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) cores: &'a Cores,
    pub(crate) visitor: Visitor,
}

/// What was measured of one proxy.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) cpu: Figures,
    pub(crate) rate: Figures,
    pub(crate) busy: Figures,
    /// What load and upstream used, per request.
    pub(crate) load: Figures,
}

impl Row {
    pub(crate) fn new(candidate: &Candidate) -> Self {
        Self {
            name: candidate.name,
            cpu: Figures::default(),
            rate: Figures::default(),
            busy: Figures::default(),
            load: Figures::default(),
        }
    }
}

/// The head of the table that [`print`] continues; `first` is what its first column tells.
pub(crate) fn print_head(first: &str) {
    println!(
        "\n| {first} | proxy | CPU µs per request | × {BARE} | × {HAPROXY} | requests/s | × {BARE} | busy | load µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

/// A line for each proxy.
pub(crate) fn print(first: &str, rows: &[Row]) {
    let row = |name| rows.iter().find(|row| row.name == name);
    let over = |of: fn(&Row) -> &Figures, row: &Row, base: Option<&Row>| {
        base.map_or_else(|| "–".to_owned(), |base| of(row).over(of(base)).ratio(row.name == base.name))
    };
    let (bare, haproxy) = (row(BARE), row(HAPROXY));
    for it in rows {
        let Row { name, cpu, rate, busy, load } = it;
        let (to_bare, to_haproxy) = (over(|row| &row.cpu, it, bare), over(|row| &row.cpu, it, haproxy));
        let rates = over(|row| &row.rate, it, bare);
        println!(
            "| {first} | {name} | {cpu:.1} | {to_bare} | {to_haproxy} | {rate:.0} | {rates} | {:.0} % | {:.1} |",
            busy.median(),
            load.median()
        );
    }
}

impl Contest<'_> {
    /// Starts all of the plan's proxies, on sites that are changed so. What is not on this machine is named and left out.
    pub(crate) fn start(&self, change: impl Fn(&mut Site)) -> io::Result<Vec<Running>> {
        let mut proxies = Vec::new();
        for candidate in &self.plan.candidates {
            let mut site = Site::before(self.visitor.upstream.address)?;
            site.logged = self.plan.logged;
            change(&mut site);
            match Running::start(candidate, &site, self.cores) {
                Ok(running) => proxies.push(running),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    println!("left out: {error} (`benches/peers` installs it)");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(proxies)
    }

    /// Visits each in turn, as often as the plan says.
    pub(crate) fn rounds(
        &mut self,
        proxies: &[Running],
        mut visit: impl FnMut(&mut Visitor, &Running) -> io::Result<crate::visit::Visit>,
    ) -> io::Result<Vec<Row>> {
        let mut rows: Vec<Row> = proxies.iter().map(|proxy| Row::new(proxy.candidate)).collect();
        for _ in 0..self.plan.rounds {
            for (proxy, row) in proxies.iter().zip(&mut rows) {
                let visit = visit(&mut self.visitor, proxy).map_err(doing(proxy.candidate.name))?;
                row.cpu.push(visit.cpu.as_secs_f64() * 1e6 / visit.answered as f64);
                row.rate.push(visit.answered as f64 / visit.took.as_secs_f64());
                // Not that of the time which others had its core in.
                let own = visit.took.saturating_sub(visit.waited).max(visit.cpu);
                row.busy.push(100.0 * visit.cpu.as_secs_f64() / own.as_secs_f64());
                row.load.push(visit.load.as_secs_f64() * 1e6 / visit.answered as f64);
            }
        }
        Ok(rows)
    }

    /// The table of costs: a group of lines for each path.
    pub(crate) fn cost(&mut self) -> io::Result<()> {
        let proxies = self.start(|_| {})?;
        print_head("path");
        let mut all = Vec::new();
        for path in self.plan.paths(&Path::ALL) {
            let rows = self.rounds(&proxies, |visitor, proxy| visitor.visit(proxy, path))?;
            print(path.name(), &rows);
            all.push((path.name().to_owned(), rows));
        }
        self.draw(Shape::Bars, "", "", &all)
    }

    /// Draws costs and rates, over what the groups of rows are named after.
    pub(crate) fn draw(&self, shape: Shape, name: &str, over: &str, groups: &[(String, Vec<Row>)]) -> io::Result<()> {
        let Some(folder) = &self.plan.svg else { return Ok(()) };
        let labels: Vec<String> = groups.iter().map(|(label, _)| label.clone()).collect();
        let candidates = self.plan.candidates.iter().map(|candidate| candidate.name);
        let series = |of: fn(&Row) -> &Figures| {
            let line = |name: &str| {
                let row = |rows: &[Row]| rows.iter().find(|row| row.name == name).map(|row| of(row).median());
                (name.to_owned(), groups.iter().map(|(_, rows)| row(rows)).collect::<Vec<_>>())
            };
            candidates.clone().map(line).filter(|(_, line)| line.iter().any(Option::is_some)).collect()
        };
        for (file, title, unit, series) in [
            ("cpu", "CPU time per request: less is better", "µs", series(|row| &row.cpu)),
            ("requests", "Requests a second with one worker: more is better", "requests/s", series(|row| &row.rate)),
        ] {
            let title = if over.is_empty() { title.to_owned() } else { format!("{title} (over {over})") };
            Chart { title, unit: unit.to_owned(), shape, labels: labels.clone(), series }
                .write(folder, &format!("{name}{}{file}", if name.is_empty() { "" } else { "-" }))?;
        }
        Ok(())
    }
}
