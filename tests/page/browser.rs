//! Chromium without a screen, as Debian has it.

use std::process::{Command, Output};

/// Nothing but the page: no first run, no updates, no sync, no other network.
const QUIET: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
];

/// A page as it stands after some of its refreshes.
pub(crate) struct Page {
    pub(crate) dom: String,
    said: String,
}

impl Page {
    /// Loads a page and lets its clock run for five seconds, which take as long as its requests do.
    pub(crate) async fn load(url: &str) -> Self {
        let Output { stdout, stderr, .. } = run(&["--virtual-time-budget=5000", "--dump-dom", url]).await;
        let (dom, said) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr).into_owned());
        assert!(dom.contains("data-turns=\""), "the page did not run:\n{dom}\n{said}");
        Self { dom, said }
    }

    pub(crate) async fn picture(url: &str, file: &str) {
        let to = format!("--screenshot={file}");
        let size = ["--window-size=1180,1080", "--force-device-scale-factor=1.5"];
        run(&["--virtual-time-budget=5000", size[0], size[1], &to, url]).await;
    }

    /// What the browser's console shows.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
    }

    /// The markup in the element whose tag has this in it, up to the next tag.
    pub(crate) fn text(&self, mark: &str) -> String {
        let rest = &self.dom[self.dom.find(mark).unwrap_or_else(|| panic!("{mark} is not in\n{}", self.dom))..];
        let rest = &rest[rest.find('>').unwrap() + 1..];
        rest[..rest.find('<').unwrap()].to_owned()
    }

    /// The number of the tile with this label.
    pub(crate) fn tile(&self, label: &str) -> String {
        let rest = &self.dom[self.dom.find(&format!(">{label}<")).unwrap_or_else(|| panic!("no tile {label}"))..];
        let rest = &rest[rest.find("class=\"value\">").unwrap() + 14..];
        rest[..rest.find('<').unwrap()].to_owned()
    }

    /// The cells of the first table row whose first cell has this text in it.
    pub(crate) fn row(&self, name: &str) -> Vec<String> {
        let rows = self.dom.split("<tr").skip(1).map(|row| row.split("</tr>").next().unwrap());
        let cells = |row: &str| -> Vec<String> {
            row.split("<td").skip(1).map(|cell| plain(cell.split_once('>').unwrap().1)).collect()
        };
        let mut rows = rows.map(cells).filter(|cells| cells.first().is_some_and(|first| first.starts_with(name)));
        rows.next().unwrap_or_else(|| panic!("{name} has no row in\n{}", self.dom))
    }
}

/// The text in some markup.
fn plain(markup: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for c in markup.chars() {
        match c {
            '<' => is_tag = true,
            '>' if is_tag => is_tag = false,
            c if !is_tag => text.push(c),
            _ => {}
        }
    }
    text
}

async fn run(arguments: &[&str]) -> Output {
    let profile = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", unique()));
    std::fs::create_dir_all(&profile).unwrap();
    // It is ended if it hangs.
    let mut command = Command::new("timeout");
    command.args(["120", "chromium"]).args(QUIET).arg(format!("--user-data-dir={}", profile.display())).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "scripts/setup test installs chromium: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = std::fs::remove_dir_all(&profile);
    output
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
