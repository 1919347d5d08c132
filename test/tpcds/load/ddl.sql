-- one client
SELECT load.ddl();
