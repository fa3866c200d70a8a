//! Renders the operators' templates (YAML with Jinja2 syntax) over the context. Reads files when it is made,
//! and never afterwards.
//!
//! A template opens with a comment that says what it yields:
//! ```jinja
//! {#
//! kind: virtual_hosts
//! for_each: service
//! #}
//! resources:
//! - name: {{ service.id | tojson }}
//! ```
//! Without `for_each` it is rendered once, for the edge. Files that end in `.jinja` are there to be included or imported.

mod defaults;
mod header;
mod scope;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use minijinja::{
    AutoEscape, Environment, UndefinedBehavior, Value, context,
    value::{Enumerator, Object, ObjectRepr, Serde},
};
use model::{
    InstanceId,
    context::{Item, Service},
    document::Document,
    node::{NodeFacts, Selection},
};

pub use header::{ForEach, Header, InvalidHeader, Match, Patterns};
pub use scope::{InvalidList, Scope, items};

/// All templates of one moment.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    headers: BTreeMap<String, Header>,
    uses: BTreeMap<ForEach, Uses>,
    /// Whether any of them looks at `node`.
    reads_node: bool,
}

/// Which sources some templates read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Uses {
    /// By their names.
    sources: BTreeSet<String>,
    /// A template goes through the context as a whole: any of them.
    everything: bool,
}

/// A set of templates that cannot be used as a whole; the one before stays in force.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TemplateError {
    #[error("reading the templates in {folder}")]
    Read {
        folder: String,
        #[source]
        source: io::Error,
    },
    #[error("{template}")]
    Header {
        template: String,
        #[source]
        source: InvalidHeader,
    },
    #[error("{template}, line {line}: {reason}")]
    Syntax { template: String, line: usize, reason: String },
    #[error("{template}: replaces: no template has this name, got {replaced:?}")]
    ReplacesNothing { template: String, replaced: String },
    #[error("{template}: key: context.{list} is told apart by {other:?} in another template, got {key:?}")]
    Key { template: String, list: String, key: String, other: String },
}

/// A template that failed for this context; what it rendered before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{template}, line {line}: {reason}")]
pub struct RenderError {
    /// The file name.
    pub template: String,
    /// Of the template.
    pub line: usize,
    /// What went wrong there.
    pub reason: String,
}

/// Instructions of one render. The largest default template takes about 2,000 for each of its loops' turns;
/// an endless loop ends here after a fraction of a second.
const FUEL: u64 = 5_000_000;
/// A service's resources are a few KB, a fleet's route table a few MB.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;

impl Templates {
    /// The default templates, and those of a folder (`*.yaml`, `*.jinja`) beside or in the place of them.
    pub fn load(overrides: Option<&Path>) -> Result<Self, TemplateError> {
        let defaults = defaults::ALL.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned()));
        Self::load_over(defaults.collect(), overrides)
    }

    /// Only those of a folder.
    pub fn load_only(folder: &Path) -> Result<Self, TemplateError> {
        Self::load_over(BTreeMap::new(), Some(folder))
    }

    fn load_over(
        mut sources: BTreeMap<String, String>,
        overrides: Option<&Path>,
    ) -> Result<Self, TemplateError> {
        if let Some(folder) = overrides {
            let read = read_folder(folder)
                .map_err(|source| TemplateError::Read { folder: folder.display().to_string(), source })?;
            sources.extend(read);
        }
        Self::compile(sources)
    }

    fn compile(sources: BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // HTML escapes would break YAML; values are written with `tojson`.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let mut headers = BTreeMap::new();
        for (name, source) in sources {
            let (header, body) = if is_library(&name) {
                (None, source)
            } else {
                let (header, body) = header::split(&source)
                    .map_err(|source| TemplateError::Header { template: name.clone(), source })?;
                (Some(header), body)
            };
            environment.add_template_owned(name.clone(), body).map_err(|error| TemplateError::Syntax {
                template: name.clone(),
                line: error.line().unwrap_or_default(),
                reason: chain(&error),
            })?;
            headers.extend(header.map(|header| (name, header)));
        }
        let mut keys = BTreeMap::new();
        for (template, header) in &headers {
            if let ForEach::Item(list) = &header.for_each {
                let other = keys.insert(list, &header.key).filter(|other| *other != &header.key).cloned();
                if let Some(other) = other {
                    let (template, list, key) = (template.clone(), list.clone(), header.key.clone());
                    return Err(TemplateError::Key { template, list, key, other });
                }
            }
        }
        for (template, header) in &headers {
            if let Some(replaced) = header.replaces.as_ref().filter(|name| !headers.contains_key(*name)) {
                let (template, replaced) = (template.clone(), replaced.clone());
                return Err(TemplateError::ReplacesNothing { template, replaced });
            }
        }
        let uses = uses(&environment, &headers);
        let reads_node = environment
            .templates()
            .any(|(_, template)| template.undeclared_variables(false).contains("node"));
        Ok(Self { environment, headers, uses, reads_node })
    }

    /// Which templates a node gets.
    pub fn select(&self, node: &NodeFacts) -> Selection {
        let matching = self
            .headers
            .iter()
            .filter(|(_, header)| header.matches.as_ref().is_some_and(|matches| matches.fits(node)));
        let templates = matching.map(|(name, _)| name.as_str().into()).collect();
        let cluster = self.reads_node.then(|| node.cluster.as_str().into());
        Selection { transport: node.transport, templates, cluster }
    }

    /// Whether nodes with this selection can run this version of Envoy (`1.40.0`), as far as the templates tell
    /// versions apart.
    pub fn may_run(&self, selection: &Selection, version: &str) -> bool {
        self.headers.iter().all(|(name, header)| {
            let Some(matches) = &header.matches else { return true };
            if selection.templates.contains(name.as_str()) {
                matches.takes_version(version)
            } else {
                !matches.is_by_version_alone() || !matches.takes_version(version)
            }
        })
    }

    /// The lists for whose items there are templates: their paths, and the fields that tell the items apart.
    pub fn lists(&self) -> BTreeMap<&str, &str> {
        let lists = self.headers.values().filter_map(|header| match &header.for_each {
            ForEach::Item(list) => Some((list.as_str(), header.key.as_str())),
            ForEach::Edge | ForEach::Service => None,
        });
        lists.collect()
    }

    /// Whether other values of these sources could change what is rendered so, beside an item's own.
    pub fn reads(&self, each: &ForEach, sources: &BTreeSet<String>) -> bool {
        self.uses.get(each).is_some_and(|uses| {
            !sources.is_empty() && (uses.everything || !uses.sources.is_disjoint(sources))
        })
    }

    /// Renders what belongs to no service.
    pub fn render_edge(&self, selection: &Selection, scope: &Scope) -> Result<Vec<Document>, RenderError> {
        self.render_all(selection, &ForEach::Edge, None, scope, Value::UNDEFINED)
    }

    /// Renders what belongs to one service.
    pub fn render_service(
        &self,
        selection: &Selection,
        service: &Service,
        scope: &Scope,
    ) -> Result<Vec<Document>, RenderError> {
        let variable = Value::from(Serde(service));
        self.render_all(selection, &ForEach::Service, Some(&service.id), scope, variable)
    }

    /// Renders what belongs to one item of a list.
    pub fn render_item(
        &self,
        selection: &Selection,
        item: &Item,
        scope: &Scope,
    ) -> Result<Vec<Document>, RenderError> {
        let each = ForEach::Item(item.list.to_string());
        self.render_all(selection, &each, Some(&item.id), scope, Value::from(Serde(&item.value)))
    }

    fn render_all(
        &self,
        selection: &Selection,
        each: &ForEach,
        owner: Option<&InstanceId>,
        scope: &Scope,
        variable: Value,
    ) -> Result<Vec<Document>, RenderError> {
        let Scope { edge, context, .. } = scope;
        let shared = context! {
            edge,
            context,
            config_source => scope.config_source(selection.transport),
            node => context! { cluster => selection.cluster.as_deref().unwrap_or_default() },
            // A client that names resources is sent only those, whatever is rendered.
            resource_names => Value::from_object(Everything),
        };
        let context = match each {
            ForEach::Edge => shared,
            ForEach::Service => context! { service => variable, ..shared },
            ForEach::Item(_) => context! { item => variable, ..shared },
        };
        let is_selected =
            |name: &str, header: &Header| header.matches.is_none() || selection.templates.contains(name);
        let is_replaced = |name: &str| {
            self.headers
                .iter()
                .any(|(other, header)| header.replaces.as_deref() == Some(name) && is_selected(other, header))
        };
        let wanted = self.headers.iter().filter(|(name, header)| {
            header.for_each == *each && is_selected(name, header) && !is_replaced(name)
        });
        wanted.map(|(name, header)| self.render(name, header, owner, &context)).collect()
    }

    fn render(
        &self,
        name: &str,
        header: &Header,
        owner: Option<&InstanceId>,
        context: &Value,
    ) -> Result<Document, RenderError> {
        let failed = |error: &minijinja::Error| RenderError {
            template: name.to_owned(),
            line: error.line().unwrap_or_default(),
            reason: chain(error),
        };
        let mut output = Bounded(Vec::new());
        let template = self.environment.get_template(name).map_err(|error| failed(&error))?;
        template.render_captured_to(context.clone(), &mut output).map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&output.0).into_owned();
        Ok(Document {
            template: name.to_owned(),
            kind: header.kind.clone(),
            ttl: header.ttl,
            allow: header.allow.clone(),
            owner: owner.cloned(),
            text,
        })
    }
}

/// Holds whatever one looks for, and is empty: the predecessor's `resource_names` of a client that names none.
#[derive(Debug)]
struct Everything;

impl Object for Everything {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(true.into())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }
}

/// Such a file renders nothing by itself, and has no header.
fn is_library(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "jinja")
}

/// Which sources the templates of each kind read. What a template includes or imports counts as its own.
fn uses(environment: &Environment<'_>, headers: &BTreeMap<String, Header>) -> BTreeMap<ForEach, Uses> {
    let read =
        |name: &str| environment.get_template(name).map(|template| Uses::of(&template)).unwrap_or_default();
    let all: Vec<_> = environment.templates().map(|(name, _)| read(name)).collect();
    let mut uses = BTreeMap::<ForEach, Uses>::new();
    for (name, header) in headers {
        let of_kind = uses.entry(header.for_each.clone()).or_default();
        of_kind.add(&read(name));
        let source = environment.get_template(name).map(|template| template.source().to_owned());
        let reads_others =
            |source: &str| ["include", "import", "extends"].iter().any(|word| source.contains(word));
        if source.is_ok_and(|source| reads_others(&source)) {
            for other in &all {
                of_kind.add(other);
            }
        }
    }
    uses
}

impl Uses {
    fn of(template: &minijinja::Template<'_, '_>) -> Self {
        let mut uses = Self::default();
        for variable in template.undeclared_variables(true) {
            let mut path = variable.split('.');
            if path.next() == Some("context") {
                match path.next() {
                    Some(source) => drop(uses.sources.insert(source.to_owned())),
                    None => uses.everything = true,
                }
            }
        }
        uses
    }

    fn add(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.sources.extend(other.sources.iter().cloned());
    }
}

/// Refuses to grow over the bound.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("a template renders at most {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_folder(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Editors leave hidden files beside the one that they write.
        if path.is_file()
            && !name.starts_with('.')
            && path.extension().is_some_and(|extension| extension == "yaml" || extension == "jinja")
        {
            sources.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(sources)
}

/// What went wrong, without the template's name: the caller says it.
fn chain(error: &minijinja::Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(detail) = error.detail() {
        text.push_str(": ");
        text.push_str(detail);
    }
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use model::{context::Values, node::Transport};
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// Renders one extra template for the edge.
    fn render(text: &str) -> Result<String, String> {
        let folder = folder(&[("own.yaml", text)]);
        let templates = Templates::load(Some(folder.path())).map_err(|error| format!("{error}"))?;
        let edge = Value::from(Serde(&json!({"name": "a&b 'q' <x>"})));
        templates
            .render("own.yaml", &templates.headers["own.yaml"], None, &context! { edge })
            .map(|document| document.text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_written_as_they_are() {
        let text = render("{#\nkind: clusters\n#}\nname: {{ edge.name }}").unwrap();
        assert_eq!(text.trim(), "name: a&b 'q' <x>");
    }

    #[test]
    fn the_lines_of_a_template_are_the_lines_of_its_output() {
        let text = render("{#\nkind: clusters\n#}\nfifth: 4").unwrap();
        assert_eq!(text.lines().position(|line| line.contains("fifth")), Some(3));
    }

    #[test]
    fn a_mistake_is_told_with_template_and_line() {
        assert_eq!(
            render("{#\nkind: clusters\n#}\n\nx: {{ edge.nme }}").unwrap_err(),
            "own.yaml, line 5: undefined value: `edge.nme` is undefined"
        );
        assert!(
            render("{#\nkind: clusters\n#}\n{% if %}")
                .unwrap_err()
                .starts_with("own.yaml, line 4: syntax error")
        );
    }

    #[test]
    fn a_template_that_never_ends_or_floods_is_stopped() {
        let endless = "{#\nkind: clusters\n#}\n{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        assert!(render(endless).unwrap_err().contains("fuel"), "{:?}", render(endless));
        let flood = "{#\nkind: clusters\n#}\n{% for a in range(10000) %}{{ 'x' * 10000 }}{% endfor %}";
        assert!(render(flood).unwrap_err().contains("at most 16777216 bytes"), "{:?}", render(flood));
        let deep = "{#\nkind: clusters\n#}\n{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(render(deep).is_err());
    }

    #[test]
    fn versions_are_told_apart_as_far_as_the_templates_do() {
        let folder = folder(&[
            ("new.yaml", "{# {kind: clusters, match: {envoy_version: ['1.40.*']}} #}"),
            ("canary.yaml", "{# {kind: clusters, match: {envoy_version: ['1.4*'], cluster: [canary]}} #}"),
        ]);
        let templates = Templates::load_only(folder.path()).unwrap();
        let may_run = |names: &[&str], version| {
            let templates_of = names.iter().map(|name| (*name).into()).collect();
            templates.may_run(&Selection { templates: templates_of, ..Selection::default() }, version)
        };
        assert!(may_run(&[], "1.37.0") && !may_run(&[], "1.40.0"));
        assert!(may_run(&["new.yaml"], "1.40.0") && !may_run(&["new.yaml"], "1.37.0"));
        assert!(may_run(&["canary.yaml"], "1.41.0") && !may_run(&["canary.yaml"], "1.40.0"));
    }

    #[test]
    fn an_operators_template_takes_the_place_of_the_default_of_its_name() {
        let folder = folder(&[
            ("routes.yaml", "{#\nkind: routes\n#}\nmine: 1"),
            (".#routes.yaml", "{"),
            ("note.txt", "{"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let header = &templates.headers["routes.yaml"];
        let document = templates.render("routes.yaml", header, None, &context! {}).unwrap();
        assert_eq!(document.text.trim(), "mine: 1");
        assert_eq!(templates.headers.len(), defaults::ALL.len());
    }

    #[test]
    fn a_template_for_some_nodes_stands_beside_or_in_the_place_of_another() {
        let folder = folder(&[
            (
                "canary.yaml",
                "{#\nkind: routes\nmatch: {id: ['*/canary-*']}\nreplaces: routes.yaml\n#}\ncanary: 1",
            ),
            ("more.yaml", "{#\nkind: routes\nmatch: {transport: [rest]}\n#}\nmore: 1"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let edge = json!({
            "group": "edge", "run_dir": "/run", "access_log_module": null, "proxy_protocol": false, "introspection": [],
            "sidecars": [], "http": {"address": "::", "port": 1}, "https": null, "cdn": null, "internal": null, "mtls": null,
            "rest": {"cluster": "xds", "refresh_delay": "5s", "request_timeout": "1s"},
            "flood": {"total_burst": 1, "total_per_second": 1, "address_burst": 1, "address_per_second": 1},
        });
        let scope = Scope::new(&edge, &Values::new());
        let rendered = |id: &str, transport| {
            let node = NodeFacts { id: id.into(), transport, ..NodeFacts::default() };
            let documents = templates.render_edge(&templates.select(&node), &scope).unwrap();
            let routes = documents.into_iter().filter(|document| document.kind == "routes");
            routes.map(|document| document.template).collect::<Vec<_>>()
        };
        assert_eq!(rendered("edge/i-1", Transport::Stream), ["routes.yaml"]);
        assert_eq!(rendered("edge/canary-1", Transport::Stream), ["canary.yaml"]);
        assert_eq!(rendered("edge/canary-1", Transport::Rest), ["canary.yaml", "more.yaml"]);
    }

    #[test]
    fn a_template_that_replaces_nothing_is_refused() {
        let folder = folder(&[("own.yaml", "{# {kind: routes, replaces: rutes.yaml} #}")]);
        let error = Templates::load(Some(folder.path())).unwrap_err().to_string();
        assert_eq!(error, "own.yaml: replaces: no template has this name, got \"rutes.yaml\"");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let error = Templates::load(Some(Path::new("/nowhere"))).unwrap_err();
        assert_eq!(error.to_string(), "reading the templates in /nowhere");
    }

    #[test]
    fn macros_and_includes_come_from_files_of_their_own() {
        let folder = folder(&[
            ("macros.jinja", "{% macro port(n) %}{port_value: {{ n }}}{% endmacro %}"),
            ("tail.jinja", "tail: {{ edge.name }}"),
            (
                "own.yaml",
                "{# kind: clusters #}{% from 'macros.jinja' import port %}{{ port(80) }} {% include 'tail.jinja' %}",
            ),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let edge = Value::from(Serde(&json!({"name": "x"})));
        let document = templates.render("own.yaml", &templates.headers["own.yaml"], None, &context! { edge });
        assert_eq!(document.unwrap().text, "{port_value: 80} tail: x");
        assert!(!templates.headers.contains_key("macros.jinja"), "it renders nothing by itself");
    }

    #[test]
    fn an_item_is_rendered_alone_and_what_else_is_read_is_known() {
        let folder = folder(&[
            (
                "own.yaml",
                "{# {kind: clusters, for_each: context.hosts, key: id} #}{{ item.id }} {{ context.limits.burst }}",
            ),
            ("all.yaml", "{# {kind: routes, for_each: context.hosts, key: id} #}x"),
            ("edge.yaml", "{# kind: runtime #}{% for name in context %}{{ name }}{% endfor %}"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let lists = [("guardrails", "name"), ("hosts", "id"), ("revocations", "name")];
        assert_eq!(templates.lists(), lists.into());
        let (id, list) = (InstanceId::of_item("hosts", "a"), "hosts".into());
        let item = Item { id, list, value: json!({"id": "a"}) };
        let values = Values::from([("limits".to_owned(), Arc::new(json!({"burst": 3})))]);
        let scope = Scope::new(&json!({"rest": {}}), &values);
        let documents = templates.render_item(&Selection::default(), &item, &scope).unwrap();
        let texts: Vec<_> = documents.iter().map(|document| document.text.as_str()).collect();
        assert_eq!(texts, ["x", "a 3"]);
        assert_eq!(documents[0].owner.as_ref().unwrap().as_str(), "hosts/a");

        let reads = |each: &ForEach, source: &str| templates.reads(each, &[source.to_owned()].into());
        let items = ForEach::Item("hosts".into());
        assert!(reads(&items, "limits") && !reads(&items, "other") && !reads(&ForEach::Service, "limits"));
        assert!(reads(&ForEach::Edge, "other"), "it goes through all of them");
    }

    #[test]
    fn the_items_of_a_list_have_one_key() {
        let folder = folder(&[
            ("a.yaml", "{# {kind: clusters, for_each: context.hosts, key: id} #}"),
            ("b.yaml", "{# {kind: routes, for_each: context.hosts} #}"),
        ]);
        let error = Templates::load(Some(folder.path())).unwrap_err().to_string();
        assert_eq!(
            error,
            "b.yaml: key: context.hosts is told apart by \"id\" in another template, got \"name\""
        );
    }

    #[test]
    fn templates_that_look_at_the_nodes_cluster_are_rendered_for_each_and_names_are_left_to_the_server() {
        let text = "{# kind: clusters #}{{ node.cluster }} {{ 'x' in resource_names }} {{ resource_names | length }}";
        let folder = folder(&[("own.yaml", text)]);
        let templates = Templates::load_only(folder.path()).unwrap();
        let scope = Scope::new(&json!({"rest": {}}), &Values::new());
        let rendered = |cluster: &str| {
            let node = NodeFacts { cluster: cluster.into(), ..NodeFacts::default() };
            let documents = templates.render_edge(&templates.select(&node), &scope).unwrap();
            documents.into_iter().map(|document| document.text).collect::<Vec<_>>()
        };
        assert_eq!(rendered("a"), ["a True 0"]);
        assert_eq!(rendered("b"), ["b True 0"]);
        let plain = Templates::load(None).unwrap();
        assert_eq!(plain.select(&NodeFacts { cluster: "a".into(), ..NodeFacts::default() }).cluster, None);
    }
}
