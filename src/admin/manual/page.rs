//! A page of section 1 from one command's definition.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{facts, join};
use crate::admin::CommandError;
use crate::cli::Cli;

/// The program and all its commands, each before those below it.
pub fn commands() -> Vec<Command> {
    let mut program = for_pages(Cli::command());
    program.build();
    let mut commands = Vec::new();
    collect(&program, &mut commands);
    commands
}

/// `walferry help` says what the pages say. What is listed is called what it is called everywhere else.
fn for_pages(command: Command) -> Command {
    let command = command.subcommand_value_name("COMMAND").subcommand_help_heading("COMMANDS");
    command.disable_help_subcommand(true).mut_subcommands(for_pages)
}

fn collect(command: &Command, into: &mut Vec<Command>) {
    into.push(command.clone());
    command.get_subcommands().for_each(|command| collect(command, into));
}

/// The page's name: `walferry-slot-list`.
pub fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page's text; it refers to others of `commands`.
///
/// # Errors
/// None that is known: a page is made in memory.
pub fn page(command: &Command, commands: &[Command]) -> Result<String, CommandError> {
    let word = name(command).split('-').nth(1);
    let man = Man::new(command.clone())
        .title(name(command).to_uppercase())
        // A date that is not there must not move the arguments after it.
        .date("\"\"")
        .source(concat!("walferry ", env!("CARGO_PKG_VERSION")))
        .manual("walferry");
    let mut defined = Vec::new();
    let render = |into: &mut Vec<u8>| {
        man.render_title(into)?;
        man.render_name_section(into)?;
        man.render_synopsis_section(into)?;
        man.render_description_section(into)?;
        man.render_options_section(into)?;
        if command.has_subcommands() { man.render_subcommands_section(into) } else { Ok(()) }
    };
    render(&mut defined)
        .map_err(|source| CommandError::failed(format!("cannot make the page {}", name(command))).because(source))?;
    let told = told(word, &related(command, commands));
    Ok(join(&[String::from_utf8_lossy(&defined).into_owned(), told.render()]))
}

/// The sections that tell what the definition does not.
fn told(command: Option<&str>, related: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in facts::exit_codes(command) {
        entry(&mut roff, &code.to_string(), &meaning);
    }
    for (title, facts) in facts::sections(command) {
        roff.control("SH", [title]);
        for fact in facts {
            entry(&mut roff, fact.name, fact.meaning);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    see_also(&mut roff, related);
    roff
}

/// A paragraph with its name in front.
pub fn entry(roff: &mut Roff, name: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(meaning)]);
}

/// References, each as `name(section)`.
pub fn see_also(roff: &mut Roff, pages: &[String]) {
    let mut line: Vec<Inline> = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        line.extend([bold(name), roman(format!("({section}"))]);
    }
    roff.text(line);
}

/// The commands above, beside and below this one, and the configuration.
fn related(command: &Command, commands: &[Command]) -> Vec<String> {
    let above = |name: &str| name.rsplit_once('-').map(|(above, _)| above.to_owned());
    let own = name(command);
    let near = |other: &&str| {
        *other != own && (above(own).as_deref() == Some(*other) || above(other) == above(own))
            || above(other).as_deref() == Some(own)
    };
    let pages = commands.iter().map(name).filter(near).map(|name| format!("{name}(1)"));
    pages.chain(["walferry.toml(5)".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn related_to(page: &str) -> Vec<String> {
        let commands = commands();
        related(commands.iter().find(|command| name(command) == page).unwrap(), &commands)
    }

    #[test]
    fn a_page_refers_to_those_around_it() {
        let list = related_to("walferry-slot-list");
        let around = ["walferry-slot(1)", "walferry-slot-create(1)", "walferry-slot-drop(1)", "walferry-slot-reset(1)"];
        assert_eq!(list[..4], around);
        assert_eq!(list[4..], ["walferry.toml(5)"]);
        let slot = related_to("walferry-slot");
        assert!(slot.contains(&"walferry(1)".to_owned()) && slot.contains(&"walferry-run(1)".to_owned()), "{slot:?}");
        assert!(slot.contains(&"walferry-slot-list(1)".to_owned()) && !slot.contains(&"walferry-slot(1)".to_owned()));
        assert!(!related_to("walferry").iter().any(|page| page.starts_with("walferry-slot-")));
    }

    #[test]
    fn a_page_begins_as_pages_do() {
        let commands = commands();
        let page = page(&commands[0], &commands).unwrap();
        let title = concat!(".TH WALFERRY 1 \"\" \"walferry ", env!("CARGO_PKG_VERSION"), "\" walferry\n");
        assert!(page.contains(title), "{page}");
        assert_eq!(page.matches(".ie \\n(.g").count(), 1, "{page}");
        assert!(!page.contains("walferry\\-help"), "{page}");
    }
}
