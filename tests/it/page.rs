//! The status page in a real browser, as a person sees it; and the API that it is made of.

use serde_json::Value;

use crate::support::browser::{Browser, installed};
use crate::support::prelude::*;
use crate::support::stage::execute;

/// What a person sees of a target: the word for its state, and the colour it has.
const STATE: &str = "
    const card = document.querySelector('[aria-label=\"Target t0\"]');
    const state = card && card.querySelector('.state');
    return state && [state.innerText, getComputedStyle(state).color];";

/// Every text that has less contrast than WCAG 2 asks for (AA: 4.5), with its contrast.
const FAINT: &str = "
    const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const linear = (c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
        const [r, g, b] = rgb(color).map((c) => linear(c / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if ((rgb(color)[3] ?? 1) > 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
        && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    const contrast = (element) => {
        const pair = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
        return (pair[0] + .05) / (pair[1] + .05);
    };
    if (texts.length < 20) return ['the page is empty'];
    const faint = texts.filter((text) => contrast(text) < 4.5);
    return faint.map((text) => `${contrast(text).toFixed(1)}: ${text.innerText}`);";

async fn wait_state(browser: &Browser, wanted: &str) -> String {
    let script = format!("const seen = (() => {{{STATE}}})(); return seen && seen[0] === '{wanted}' && seen[1];");
    let colour = browser.wait(&format!("the page to say \"{wanted}\""), &script, seconds(20)).await;
    colour.as_str().expect("a colour").to_owned()
}

/// Red, to a person's eye: more of it than of both others together.
fn is_red(colour: &str) -> bool {
    let parts: Vec<u32> = colour.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    parts[0] > 2 * parts[1] && parts[0] > 2 * parts[2]
}

#[tokio::test]
async fn a_person_sees_a_target_go_down_and_come_back() {
    if !installed() {
        return;
    }
    let mut stage = Stage::new(2).await;
    // A name that would do harm in a page that took it for HTML.
    let evil = r#"CREATE TABLE "<img src=x onerror=alert(1)>" (id int PRIMARY KEY)"#;
    for client in [&stage.on_source, &stage.places[0].client, &stage.places[1].client] {
        execute(client, evil).await;
    }
    execute(&stage.places[1].client, r#"GRANT ALL ON "<img src=x onerror=alert(1)>" TO plain"#).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let browser = Browser::start().await;
    browser.resize(1100, 900).await;
    browser.open(&format!("http://127.0.0.1:{}/", daemon.port)).await;
    let well = wait_state(&browser, "in step with the stream").await;
    assert!(!is_red(&well), "{well}");
    let summary = "return document.getElementById('summary').innerText;";
    assert_eq!(browser.run(summary).await, "streaming, 2 of 2 targets in step");

    execute(&stage.on_source, "INSERT INTO applied VALUES (-77, 999)").await;
    let counted =
        "return /, 1 insert|\\(1 insert/.test(document.querySelector('[data-field=rows]:not(:empty)').innerText)";
    browser.wait("a row to be counted", counted, seconds(20)).await;

    stage.places[0].cluster.kill9().await;
    let down = wait_state(&browser, "trying again").await;
    assert!(is_red(&down), "{down} is not red");
    let told = "const error = document.querySelector('[aria-label=\"Target t0\"] .error'); return error.innerText;";
    let told = browser.run(told).await;
    assert!(told.as_str().unwrap().contains("127.0.0.1"), "{told}");
    let loud = browser.run("return getComputedStyle(document.getElementById('summary')).color").await;
    assert!(is_red(loud.as_str().unwrap()), "{loud}");
    assert!(browser.run(summary).await.as_str().unwrap().starts_with("target t0 is retrying: "));
    let charted = "return document.querySelector('[aria-label=\"Target t0\"] .line').getAttribute('d')?.length > 20";
    browser.wait("its lag to be drawn", charted, seconds(20)).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        browser.picture(&format!("down-{scheme}")).await;
    }

    stage.places[0].cluster.start_again().await;
    stage.places[0].reconnect().await;
    assert!(!is_red(&wait_state(&browser, "in step with the stream").await));
    let passed = "return document.querySelector('[aria-label=\"Target t0\"] .error').innerText.includes('has passed')";
    browser.wait("the error to be past", passed, seconds(20)).await;

    // All tables, with their names as they are.
    browser.run("document.querySelector('#all-tables summary').click()").await;
    let named = "return document.querySelector('#all-tables table')?.innerText.includes('public.<img src=x onerror')";
    browser.wait("the tables to be listed", named, seconds(20)).await;

    daemon.kill9();
    let alone = "const alert = document.querySelector('[role=alert]'); return !alert.hidden && alert.innerText";
    let alone = browser.wait("the page to say that nobody answers", alone, seconds(20)).await;
    assert!(alone.as_str().unwrap().starts_with("The daemon has not answered since "), "{alone}");
}

#[tokio::test]
async fn a_person_sees_that_a_target_is_paused_and_since_when() {
    if !installed() {
        return;
    }
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    daemon.kill9();
    execute(&stage.places[0].client, "UPDATE walferry.progress SET paused_at = now()").await;
    daemon.start();
    daemon.wait_ready(seconds(30)).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://127.0.0.1:{}/", daemon.port)).await;
    let seen =
        format!("const seen = (() => {{{STATE}}})(); return seen && /^paused since .*\\d/.test(seen[0]) && seen[1];");
    let colour = browser.wait("the page to say that it is paused", &seen, seconds(20)).await;
    assert!(!is_red(colour.as_str().unwrap()), "what is wanted is no trouble: {colour}");
    let summary = browser.run("return document.getElementById('summary').innerText;").await;
    assert!(summary.as_str().unwrap().contains("walferry target resume t0"), "{summary}");
    browser.picture("paused").await;
}

#[tokio::test]
async fn the_page_is_for_everybody() {
    if !installed() {
        return;
    }
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let browser = Browser::start().await;
    let home = format!("http://127.0.0.1:{}/", daemon.port);
    browser.open(&home).await;
    wait_state(&browser, "in step with the stream").await;
    browser.run("document.querySelector('#all-tables summary').click()").await;
    browser.wait("the tables to be listed", "return !!document.querySelector('#all-tables table')", seconds(20)).await;

    // Read from the paper's edge to edge, by day and by night.
    for (device, width) in [("phone", 360), ("desk", 1280)] {
        browser.resize(width, 800).await;
        let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.run(overflow).await, 0, "a {device} has to scroll sideways");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).await;
            assert_eq!(browser.run(FAINT).await, Value::Array(vec![]), "hard to read on a {device}, {scheme}");
            browser.picture(&format!("well-{device}-{scheme}")).await;
        }
    }

    // Heard: what a screen reader is told.
    let tree = browser.devtools("Accessibility.getFullAXTree", Value::Object(serde_json::Map::new())).await;
    let nodes = tree["nodes"].as_array().expect("a tree");
    let heard = |role: &str, name: &str| {
        let said = |node: &&Value| {
            node["role"]["value"] == role && node["name"]["value"].as_str().is_some_and(|said| said.starts_with(name))
        };
        assert!(nodes.iter().any(|node| said(&node)), "no {role} \"{name}\" is told of");
    };
    for (role, name) in [
        ("heading", "walferry"),
        ("region", "Source"),
        ("region", "Targets"),
        ("article", "Target t0"),
        ("article", "Target t1"),
        ("image", "Lag over the last"),
        ("columnheader", "State"),
    ] {
        heard(role, name);
    }
    assert_eq!(browser.run("return document.documentElement.lang").await, "en");
    assert_eq!(browser.run("return document.getElementById('summary').getAttribute('role')").await, "status");

    // Nobody else is asked for anything, and nobody could be.
    let asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
    let asked = browser.run(asked).await;
    let asked: Vec<&str> = asked.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(asked.len() > 3 && asked.iter().all(|url| url.starts_with(&home)), "{asked:?}");
    let elsewhere = "return fetch('http://127.0.0.1:1/').then(() => 'sent', (error) => error.message)";
    browser.run("window.seen = []; addEventListener('securitypolicyviolation', (e) => seen.push(e.blockedURI))").await;
    browser.run(elsewhere).await;
    assert_eq!(browser.run("return window.seen.length").await, 1, "the page could speak to others");
}

#[tokio::test]
async fn programs_read_the_status_by_its_schema() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let down = Proxy::to(&stage.places[0].cluster).await;
    down.set(Mode::Refuse);
    for path in ["/api/v1/status", "/api/v1/lag"] {
        let json = async |path: &str| {
            let (code, body) = daemon.get(path).await.expect("it answers");
            assert_eq!(code, 200, "{path}: {body}");
            serde_json::from_str::<Value>(&body).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let schema = json(&format!("{path}/schema")).await;
        let answer = json(path).await;
        let judge = jsonschema::validator_for(&schema).expect("a schema");
        let faults: Vec<String> = judge.iter_errors(&answer).map(|error| error.to_string()).collect();
        assert!(faults.is_empty(), "{path}: {faults:?}");
        for (name, _) in answer.as_object().unwrap() {
            assert!(schema["properties"][name]["description"].is_string(), "{path}: {name} is not described");
        }
        let mut wrong = answer.clone();
        wrong.as_object_mut().unwrap().remove("targets");
        assert!(!judge.is_valid(&wrong), "{path}: the schema takes anything");
    }
    let (_, body) = daemon.get("/api/v1/status").await.unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["ready"], &status["summary"]), (&true.into(), &"streaming, 2 of 2 targets in step".into()));
    let sizes: Vec<u64> = status["tables"].as_array().unwrap().iter().filter_map(|t| t["bytes"].as_u64()).collect();
    assert!(sizes.iter().sum::<u64>() > 0, "the copy has read nothing");
}
