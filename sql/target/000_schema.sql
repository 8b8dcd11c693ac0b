-- The schema of walferry's own tables on a target. Walferry makes it where its role has CREATE on the database;
-- otherwise a DBA runs this once: CREATE SCHEMA walferry AUTHORIZATION <walferry's role>;
CREATE SCHEMA walferry;
