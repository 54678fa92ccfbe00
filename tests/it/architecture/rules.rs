//! The rules, each beside its reason.

use std::fmt;

use super::source::Source;

/// Rooms by floor; an import goes to a lower floor, or to what `NEIGHBOURS` allows.
const FLOORS: [(&str, u8); 18] = [
    ("base", 0),
    ("sqlite", 1),
    ("crypto", 1),
    ("outbound", 1),
    ("ltx", 1),
    ("fairness", 1),
    ("keyring", 2),
    ("catalog", 2),
    ("tenants", 2),
    ("replica", 2),
    ("backup", 2),
    ("web", 3),
    ("features", 4),
    ("jobs", 5),
    ("router", 5),
    ("app", 5),
    ("cli", 5),
    // Values only, but not for everyone: see `CONFIG_READERS`.
    ("config", 1),
];

/// What may be imported on one's own floor. Nothing else: so there are no circles.
const NEIGHBOURS: [(&str, &[&str]); 5] = [
    ("tenants", &["keyring", "catalog"]),
    ("backup", &["keyring", "catalog", "tenants", "replica"]),
    ("router", &["jobs"]),
    ("app", &["jobs", "router"]),
    ("cli", &["jobs", "router", "app"]),
];

/// What `tenants` may see of the catalog: the proofs that a route was looked up and that a name was claimed.
const PROOFS: [&str; 3] = ["route", "TenantRoute", "Claim"];

/// Rooms get the values they need as arguments, not the whole configuration.
const CONFIG_READERS: [&str; 5] = ["config", "web", "router", "app", "cli"];

/// Features in the order in which they may use each other: only those before.
const FEATURES: [&str; 29] = [
    "audit",
    "outbox",
    "signing_key",
    "application",
    "organization",
    "member",
    "session",
    "password",
    "recovery",
    "account",
    "membership",
    "api_key",
    "export",
    "idempotency",
    "provisioning",
    "import",
    "keys",
    "erasure",
    "backup",
    "sign_up",
    "oauth",
    "inspection",
    "freeze",
    "placement",
    "encryption",
    "transfer",
    "fleet",
    "status",
    "api",
];

/// Features of the deployment, whose rules may see the catalog; those of an organization never do.
const OF_THE_DEPLOYMENT: [&str; 13] = [
    "import",
    "signing_key",
    "provisioning",
    "sign_up",
    "fleet",
    "backup",
    "erasure",
    "inspection",
    "freeze",
    "placement",
    "encryption",
    "transfer",
    "keys",
];

/// Files of a feature that translate to and from HTTP.
const EDGES: [&str; 3] = ["http", "pages", "api"];

/// Crates that one part of the house speaks to the world through.
struct Door {
    crates: &'static [&'static str],
    open_to: fn(&Source) -> bool,
    rule: &'static str,
}

const DOORS: [Door; 5] = [
    Door {
        crates: &["rusqlite", "r2d2", "libsqlite3_sys"],
        open_to: |source| in_room(source, &["sqlite"]),
        rule: "only src/sqlite names rusqlite and r2d2",
    },
    Door {
        crates: &["axum", "axum_extra", "utoipa_axum", "tower_http"],
        open_to: |source| is_edge(source) || in_room(source, &["web", "router", "app", "cli", "jobs"]),
        rule: "only features/*/{http,pages,api}.rs, web, router, app, cli and jobs name axum",
    },
    Door {
        crates: &["age", "argon2", "aws_lc_rs", "jsonwebtoken"],
        open_to: |source| in_room(source, &["crypto"]),
        rule: "only src/crypto names the libraries of cryptography",
    },
    Door {
        crates: &["lettre"],
        open_to: |source| in_room(source, &["outbound"]),
        rule: "only src/outbound sends mail",
    },
    Door {
        crates: &["reqwest"],
        open_to: |source| in_room(source, &["outbound", "cli"]),
        rule: "requests to others leave through src/outbound (the CLI's go to its own service)",
    },
];

/// A broken rule, and where.
pub struct Violation {
    pub path: String,
    pub line: usize,
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// Every rule that a file breaks.
pub fn check(source: &Source) -> Vec<Violation> {
    // Tests set the scene with any room; lib.rs is the map and main.rs the door.
    if source.module.last().is_some_and(|last| last == "tests") || source.module.is_empty() {
        return Vec::new();
    }
    let mut broken: Vec<(usize, String)> = Vec::new();
    for (line, path) in &source.paths {
        let rule = match path.first().map(String::as_str) {
            Some("crate") => inside(source, &path[1..]),
            Some(name) => outside(source, name),
            None => None,
        };
        broken.extend(rule.map(|rule| (*line, rule)));
    }
    if !holds_sql(source) {
        let rule = "SQL belongs in features/*/store.rs, catalog, tenants, keyring or sqlite";
        broken.extend(source.texts.iter().filter(|(_, text)| is_sql(text)).map(|(line, _)| (*line, rule.to_owned())));
        let params = source.macros.iter().filter(|(_, name)| name == "params");
        broken.extend(params.map(|(line, _)| (*line, rule.to_owned())));
    }
    broken.sort();
    broken.dedup();
    broken.into_iter().map(|(line, rule)| Violation { path: source.path.clone(), line, rule }).collect()
}

/// A crate that we did not write.
fn outside(source: &Source, name: &str) -> Option<String> {
    let door = DOORS.iter().find(|door| door.crates.contains(&name))?;
    (!(door.open_to)(source)).then(|| door.rule.to_owned())
}

/// A path of our own, without `crate`.
fn inside(source: &Source, target: &[String]) -> Option<String> {
    let to = target.first()?.as_str();
    let from = source.module[0].as_str();
    let Some(to_floor) = floor(to) else {
        // Items of lib.rs itself are not rooms.
        let is_room = to.starts_with(|c: char| c.is_lowercase());
        return is_room.then(|| format!("{to} has no floor; give it one in tests/it/architecture/rules.rs"));
    };
    let Some(from_floor) = floor(from) else {
        return Some(format!("{from} has no floor; give it one in tests/it/architecture/rules.rs"));
    };
    if to == "config" {
        return (!CONFIG_READERS.contains(&from))
            .then(|| format!("{from} may not import config; pass it the values that it needs"));
    }
    if from == to {
        return (from == "features").then(|| between_features(source, target)).flatten();
    }
    if from == "tenants" && to == "catalog" {
        return target
            .get(1)
            .is_none_or(|name| !PROOFS.contains(&name.as_str()))
            .then(|| "tenants may see nothing of the catalog but a TenantRoute or a Claim".to_owned());
    }
    let neighbour = NEIGHBOURS.iter().any(|(room, allowed)| *room == from && allowed.contains(&to));
    if to_floor >= from_floor && !neighbour {
        return Some(format!("{from} (floor {from_floor}) may not import {to} (floor {to_floor}): imports point down"));
    }
    if holds_params(target) && !holds_sql(source) {
        return Some("SQL belongs in features/*/store.rs, catalog, tenants, keyring or sqlite".to_owned());
    }
    if from == "features" { from_a_feature(source, target, to) } else { None }
}

/// What the files of a feature may import from below.
fn from_a_feature(source: &Source, target: &[String], to: &str) -> Option<String> {
    let allowed: &[&str] = match part(source) {
        // features/mod.rs is a list of modules.
        Part::List => return None,
        // Sealed columns are sealed where they are written.
        Part::Store => &["base", "sqlite", "crypto"],
        Part::Edge => &["base", "crypto", "fairness", "outbound", "keyring", "catalog", "tenants", "backup", "web"],
        Part::Rules if source.module.get(1).is_some_and(|own| OF_THE_DEPLOYMENT.contains(&own.as_str())) => {
            &["base", "crypto", "fairness", "keyring", "catalog", "tenants", "backup", "sqlite"]
        }
        Part::Rules => &["base", "crypto", "fairness", "keyring", "tenants", "sqlite"],
    };
    let what = match part(source) {
        Part::Store => "a feature's store (SQL, one statement a function)",
        Part::Edge => "a feature's http.rs or pages.rs (translation)",
        Part::Rules | Part::List => "a feature's rules",
    };
    if part(source) == Part::Store && target.get(1).is_some_and(|name| name == "random") {
        return Some(format!("{what} makes nothing up: randomness comes from the rules"));
    }
    (!allowed.contains(&to)).then(|| format!("{what} may import {}; not {to}", allowed.join(", ")))
}

/// What one feature may import from another, and its parts from each other.
fn between_features(source: &Source, target: &[String]) -> Option<String> {
    let (Some(own), Some(other)) = (source.module.get(1), target.get(1)) else { return None };
    let Some(own_place) = FEATURES.iter().position(|name| name == own) else {
        return Some(format!("the feature {own} has no place in the order; add it in tests/it/architecture/rules.rs"));
    };
    let other_place = FEATURES.iter().position(|name| name == other)?;
    let names_store = target.get(2).is_some_and(|name| name == "store");
    let names_edge = target.get(2).is_some_and(|name| EDGES.contains(&name.as_str()));
    if own == other {
        return match part(source) {
            Part::Edge if names_store => Some("http.rs asks its mod.rs, never a store".to_owned()),
            Part::Rules | Part::Store if names_edge => Some("a rule does not know the pages that show it".to_owned()),
            _ => None,
        };
    }
    if names_store {
        return Some(format!("{own} may not reach into {other}'s store; ask {other}'s mod.rs"));
    }
    if part(source) == Part::Store {
        return Some(format!("a store knows its own feature's tables only, not {other}"));
    }
    if names_edge && part(source) != Part::Edge {
        return Some(format!("the rules of {own} may not know the pages of {other}"));
    }
    (other_place > own_place).then(|| format!("{own} may use only the features before it, and {other} comes after"))
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    List,
    Rules,
    Store,
    /// http.rs and pages.rs, or folders of these names.
    Edge,
}

fn part(source: &Source) -> Part {
    match source.module.get(2).map(String::as_str) {
        _ if source.module.len() < 2 => Part::List,
        Some("store") => Part::Store,
        Some(name) if EDGES.contains(&name) => Part::Edge,
        // The API as a whole is nothing but edge.
        _ if source.module[1] == "api" => Part::Edge,
        _ => Part::Rules,
    }
}

fn is_edge(source: &Source) -> bool {
    in_room(source, &["features"]) && matches!(part(source), Part::Edge)
}

fn in_room(source: &Source, rooms: &[&str]) -> bool {
    source.module.first().is_some_and(|room| rooms.contains(&room.as_str()))
}

fn holds_sql(source: &Source) -> bool {
    in_room(source, &["sqlite", "keyring", "catalog", "tenants"])
        || (in_room(source, &["features"]) && part(source) == Part::Store)
}

fn holds_params(target: &[String]) -> bool {
    target.len() == 2 && target[0] == "sqlite" && target[1] == "params"
}

fn is_sql(text: &str) -> bool {
    const STARTS: [&str; 9] = [
        "SELECT ",
        "INSERT INTO ",
        "INSERT OR ",
        "UPDATE ",
        "DELETE FROM ",
        "CREATE TABLE ",
        "ALTER TABLE ",
        "PRAGMA ",
        "WITH RECURSIVE ",
    ];
    STARTS.iter().any(|start| text.trim_start().starts_with(start))
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}
