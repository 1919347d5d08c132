TRUNCATE audit.entry;
