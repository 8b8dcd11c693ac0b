//! The connection service file: named sets of settings, from `PGSERVICEFILE` or `~/.pg_service.conf`, then from
//! `pg_service.conf` in `PGSYSCONFDIR`. Facts: PostgreSQL docs, "The Connection Service File"; `parseServiceInfo` and
//! `parseServiceFile` in fe-connect.c.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConnInfoError;
use super::settings::{Settings, is_blank};

/// Adds what the service file says to what the string does not say.
pub(super) fn add(settings: &mut Settings, environment: &Environment) -> Result<(), ConnInfoError> {
    let service = match settings.get("service") {
        Some(value) => value.text.clone(),
        None => match environment.variable("service", "PGSERVICE")? {
            Some(service) => service,
            None => return Ok(()),
        },
    };
    // A file that is named must be there; one in the usual places may be.
    let named = settings.text("servicefile").map(PathBuf::from).or_else(|| environment.path("PGSERVICEFILE"));
    let mut files: Vec<PathBuf> = Vec::new();
    let in_home = environment.in_home(".pg_service.conf").filter(|path| path.exists());
    files.extend(named.or(in_home));
    let directories = match environment.path("PGSYSCONFDIR") {
        Some(directory) => vec![directory],
        None => environment.system_config_directories.clone(),
    };
    files.extend(directories.iter().map(|dir| dir.join("pg_service.conf")).filter(|path| path.exists()));
    for file in &files {
        if add_from_file(settings, file, &service)? {
            return Ok(());
        }
    }
    Err(ConnInfoError::ServiceNotFound { service, searched: files })
}

/// Whether the file defines the service.
fn add_from_file(settings: &mut Settings, path: &Path, service: &str) -> Result<bool, ConnInfoError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConnInfoError::File {
        role: "service file",
        path: path.to_owned(),
        why: error.to_string(),
        hint: "Correct the file, or PGSERVICEFILE, or remove the service.".to_owned(),
    })?;
    let mut found = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches(is_blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found {
                break;
            }
            found = section.strip_prefix(service).is_some_and(|rest| rest.starts_with(']'));
            continue;
        }
        if found {
            setting(settings, line).map_err(|what| ConnInfoError::ServiceFile {
                path: path.to_owned(),
                line: index + 1,
                what,
            })?;
        }
    }
    Ok(found)
}

/// One line of the service's section. Lines are not repeated in errors: they hold passwords.
fn setting(settings: &mut Settings, line: &str) -> Result<(), String> {
    let (name, value) = line.split_once('=').ok_or("there is no =")?;
    match name {
        "service" | "servicefile" => Err(format!("{name} cannot be set in a service file")),
        name if name.starts_with("ldap") => Err("settings from LDAP are not supported".to_owned()),
        name if settings.store_from_service(name, value.to_owned()) => Ok(()),
        name if name.ends_with(is_blank) => Err("there must be no blanks around =".to_owned()),
        name => Err(match super::keyword::meant(name) {
            Some(meant) => format!("unknown keyword; did you mean {meant}?"),
            None => "unknown keyword".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[other]\nhost=other.example\n\n  [prod]  \nhost=db.example\nport=6432\ndbname=shop\n\
                        password=s3=cret\nuser= spaced\n[prod]\nhost=second\n";

    fn home(file: &str) -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".pg_service.conf"), file).unwrap();
        let environment = Environment::bare("ann").with_home(home.path());
        (home, environment)
    }

    fn asking_for(service: &str) -> Settings {
        let mut settings = Settings::default();
        assert!(settings.store("service", service.to_owned()));
        settings
    }

    #[test]
    fn the_first_section_of_the_service_is_taken_up_to_the_next_section() {
        let (_home, environment) = home(FILE);
        let mut settings = asking_for("prod");
        add(&mut settings, &environment).unwrap();
        assert_eq!(settings.text("host"), Some("db.example"));
        assert_eq!(settings.text("password"), Some("s3=cret"));
        assert_eq!(settings.text("user"), Some(" spaced"), "libpq keeps blanks after =");
    }

    #[test]
    fn the_string_wins_over_the_service_file() {
        let (_home, environment) = home(FILE);
        let mut settings = asking_for("prod");
        settings.store("port", "5433".to_owned());
        add(&mut settings, &environment).unwrap();
        assert_eq!(settings.text("port"), Some("5433"));
    }

    #[test]
    fn a_service_in_the_system_file_is_found_when_the_users_file_has_none() {
        let system = tempfile::tempdir().unwrap();
        std::fs::write(system.path().join("pg_service.conf"), "[site]\nhost=site.example\n").unwrap();
        let (_home, environment) = home(FILE);
        let environment = environment.with("PGSYSCONFDIR", system.path()).with("PGSERVICE", "site");
        let mut settings = Settings::default();
        add(&mut settings, &environment).unwrap();
        assert_eq!(settings.text("host"), Some("site.example"));
    }

    #[test]
    fn mistakes_name_file_and_line_but_never_the_line_itself() {
        for (section, expected) in [
            ("[prod]\nhunter2\n", "line 2: there is no ="),
            ("[prod]\n\nhost = hunter2\n", "line 3: there must be no blanks around ="),
            ("[prod]\nservice=hunter2\n", "line 2: service cannot be set"),
            ("[prod]\nhots=hunter2\n", "line 2: unknown keyword; did you mean host?"),
            ("[prod]\nldap://hunter2/=\n", "line 2: settings from LDAP are not supported"),
            ("[production]\nhost=hunter2\n", "service \"prod\" is not defined in"),
        ] {
            let (_home, environment) = home(section);
            let error = add(&mut asking_for("prod"), &environment).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("pg_service.conf"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_service_file_that_is_named_must_exist() {
        let environment = Environment::bare("ann").with("PGSERVICEFILE", "/nonexistent/services");
        let error = add(&mut asking_for("prod"), &environment).unwrap_err().to_string();
        assert!(error.contains("service file /nonexistent/services cannot be used"), "{error}");
    }
}
