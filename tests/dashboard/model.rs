//! The dashboard as Grafana reads it, as far as it is looked at here.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dashboard {
    pub uid: String,
    pub title: String,
    pub tags: Vec<String>,
    pub refresh: String,
    pub schema_version: u32,
    pub panels: Vec<Panel>,
    templating: Templating,
}

#[derive(Deserialize)]
struct Templating {
    list: Vec<Variable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub multi: bool,
    pub include_all: bool,
    /// Of a data source its kind; of labels, an object.
    query: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    pub id: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub datasource: Datasource,
    pub grid_pos: Place,
    #[serde(default)]
    pub targets: Vec<Query>,
    #[serde(default)]
    field_config: FieldConfig,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Place {
    pub x: u32,
    pub y: u32,
    pub w: u32,
    pub h: u32,
}

#[derive(Default, Deserialize)]
pub struct Datasource {
    pub uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    pub expr: String,
    pub datasource: Datasource,
    legend_format: String,
}

#[derive(Default, Deserialize)]
struct FieldConfig {
    defaults: Defaults,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Defaults {
    pub unit: String,
    pub no_value: String,
    pub thresholds: Thresholds,
    pub custom: Custom,
    mappings: Vec<Mapping>,
}

#[derive(Default, Deserialize)]
pub struct Thresholds {
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
pub struct Step {
    pub color: String,
    pub value: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Custom {
    pub span_nulls: Option<bool>,
}

#[derive(Deserialize)]
struct Mapping {
    options: std::collections::BTreeMap<String, Word>,
}

#[derive(Deserialize)]
struct Word {
    text: String,
}

impl Dashboard {
    pub fn deployed() -> Self {
        serde_json::from_str(&std::fs::read_to_string("deploy/grafana/dashboard.json").unwrap()).unwrap()
    }

    pub fn variables(&self) -> &[Variable] {
        &self.templating.list
    }

    /// The panels that show something: all but the headings.
    pub fn charts(&self) -> impl Iterator<Item = &Panel> {
        self.panels.iter().filter(|panel| panel.kind != "row")
    }

    pub fn panel(&self, title: &str) -> &Panel {
        self.panels.iter().find(|panel| panel.title == title).unwrap()
    }
}

impl Variable {
    /// The series and the label of `label_values(series, label)`.
    pub fn label_values(&self) -> (&str, &str) {
        let query = self.query["query"].as_str().unwrap();
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        inner.and_then(|inner| inner.rsplit_once(", ")).unwrap()
    }
}

impl Panel {
    pub fn defaults(&self) -> &Defaults {
        &self.field_config.defaults
    }

    /// The word that it shows for a number.
    pub fn word(&self, number: f64) -> Option<&str> {
        let words = self.defaults().mappings.iter().find_map(|mapping| mapping.options.get(&number.to_string()));
        words.map(|word| word.text.as_str())
    }
}

impl Query {
    /// The labels in its legend.
    pub fn legend_labels(&self) -> Vec<&str> {
        let parts = self.legend_format.split("{{").skip(1);
        parts.map(|part| part.split_once("}}").unwrap().0.trim()).collect()
    }
}

/// Panels beyond the 24 columns, on another one, or before a heading.
pub fn misplaced(panels: &[Panel]) -> Vec<String> {
    let mut faults = Vec::new();
    for (count, panel) in panels.iter().enumerate() {
        let place = panel.grid_pos;
        if place.w == 0 || place.h == 0 || place.x + place.w > 24 {
            faults.push(format!("{} is beyond the grid: {place:?}", panel.title));
        }
        for other in &panels[..count] {
            let (a, b) = (place, other.grid_pos);
            if a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h {
                faults.push(format!("{} lies on {}", panel.title, other.title));
            }
        }
    }
    if panels.first().is_none_or(|panel| panel.kind != "row") {
        faults.push("the first panel is not a heading".to_owned());
    }
    faults
}
