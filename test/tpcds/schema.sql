-- The tables of TPC-DS that the trucks read: names and types as in the standard; primary
-- keys as there; foreign keys are left out, as most who use the schema do.  inventory is
-- partitioned by date here, and the tables whose old values trucks read log them.
CREATE SCHEMA tpcds;
SET search_path = tpcds, public;

CREATE TABLE date_dim (
	d_date_sk           integer PRIMARY KEY,
	d_date_id           char(16) NOT NULL,
	d_date              date,
	d_month_seq         integer,
	d_week_seq          integer,
	d_quarter_seq       integer,
	d_year              integer,
	d_dow               integer,
	d_moy               integer,
	d_dom               integer,
	d_qoy               integer,
	d_fy_year           integer,
	d_fy_quarter_seq    integer,
	d_fy_week_seq       integer,
	d_day_name          char(9),
	d_quarter_name      char(6),
	d_holiday           char(1),
	d_weekend           char(1),
	d_following_holiday char(1),
	d_first_dom         integer,
	d_last_dom          integer,
	d_same_day_ly       integer,
	d_same_day_lq       integer,
	d_current_day       char(1),
	d_current_week      char(1),
	d_current_month     char(1),
	d_current_quarter   char(1),
	d_current_year      char(1)
);

CREATE TABLE item (
	i_item_sk        integer PRIMARY KEY,
	i_item_id        char(16) NOT NULL,
	i_rec_start_date date,
	i_rec_end_date   date,
	i_item_desc      varchar(200),
	i_current_price  decimal(7,2),
	i_wholesale_cost decimal(7,2),
	i_brand_id       integer,
	i_brand          char(50),
	i_class_id       integer,
	i_class          char(50),
	i_category_id    integer,
	i_category       char(50),
	i_manufact_id    integer,
	i_manufact       char(50),
	i_size           char(20),
	i_formulation    char(20),
	i_color          char(20),
	i_units          char(10),
	i_container      char(10),
	i_manager_id     integer,
	i_product_name   char(50)
);

CREATE TABLE customer_address (
	ca_address_sk    integer PRIMARY KEY,
	ca_address_id    char(16) NOT NULL,
	ca_street_number char(10),
	ca_street_name   varchar(60),
	ca_street_type   char(15),
	ca_suite_number  char(10),
	ca_city          varchar(60),
	ca_county        varchar(30),
	ca_state         char(2),
	ca_zip           char(10),
	ca_country       varchar(20),
	ca_gmt_offset    decimal(5,2),
	ca_location_type char(20)
);

CREATE TABLE household_demographics (
	hd_demo_sk        integer PRIMARY KEY,
	hd_income_band_sk integer,
	hd_buy_potential  char(15),
	hd_dep_count      integer,
	hd_vehicle_count  integer
);

CREATE TABLE customer (
	c_customer_sk          integer PRIMARY KEY,
	c_customer_id          char(16) NOT NULL,
	c_current_cdemo_sk     integer,
	c_current_hdemo_sk     integer,
	c_current_addr_sk      integer,
	c_first_shipto_date_sk integer,
	c_first_sales_date_sk  integer,
	c_salutation           char(10),
	c_first_name           char(20),
	c_last_name            char(30),
	c_preferred_cust_flag  char(1),
	c_birth_day            integer,
	c_birth_month          integer,
	c_birth_year           integer,
	c_birth_country        varchar(20),
	c_login                char(13),
	c_email_address        char(50),
	c_last_review_date_sk  integer
);

CREATE TABLE store (
	s_store_sk         integer PRIMARY KEY,
	s_store_id         char(16) NOT NULL,
	s_rec_start_date   date,
	s_rec_end_date     date,
	s_closed_date_sk   integer,
	s_store_name       varchar(50),
	s_number_employees integer,
	s_floor_space      integer,
	s_hours            char(20),
	s_manager          varchar(40),
	s_market_id        integer,
	s_geography_class  varchar(100),
	s_market_desc      varchar(100),
	s_market_manager   varchar(40),
	s_division_id      integer,
	s_division_name    varchar(50),
	s_company_id       integer,
	s_company_name     varchar(50),
	s_street_number    varchar(10),
	s_street_name      varchar(60),
	s_street_type      char(15),
	s_suite_number     char(10),
	s_city             varchar(60),
	s_county           varchar(30),
	s_state            char(2),
	s_zip              char(10),
	s_country          varchar(20),
	s_gmt_offset       decimal(5,2),
	s_tax_precentage   decimal(5,2)		-- spelled so in the standard
);

CREATE TABLE warehouse (
	w_warehouse_sk    integer PRIMARY KEY,
	w_warehouse_id    char(16) NOT NULL,
	w_warehouse_name  varchar(20),
	w_warehouse_sq_ft integer,
	w_street_number   char(10),
	w_street_name     varchar(60),
	w_street_type     char(15),
	w_suite_number    char(10),
	w_city            varchar(60),
	w_county          varchar(30),
	w_state           char(2),
	w_zip             char(10),
	w_country         varchar(20),
	w_gmt_offset      decimal(5,2)
);

CREATE TABLE promotion (
	p_promo_sk        integer PRIMARY KEY,
	p_promo_id        char(16) NOT NULL,
	p_start_date_sk   integer,
	p_end_date_sk     integer,
	p_item_sk         integer,
	p_cost            decimal(15,2),
	p_response_target integer,
	p_promo_name      char(50),
	p_channel_dmail   char(1),
	p_channel_email   char(1),
	p_channel_catalog char(1),
	p_channel_tv      char(1),
	p_channel_radio   char(1),
	p_channel_press   char(1),
	p_channel_event   char(1),
	p_channel_demo    char(1),
	p_channel_details varchar(100),
	p_purpose         char(15),
	p_discount_active char(1)
);

CREATE TABLE store_sales (
	ss_sold_date_sk       integer,
	ss_sold_time_sk       integer,
	ss_item_sk            integer NOT NULL,
	ss_customer_sk        integer,
	ss_cdemo_sk           integer,
	ss_hdemo_sk           integer,
	ss_addr_sk            integer,
	ss_store_sk           integer,
	ss_promo_sk           integer,
	ss_ticket_number      bigint NOT NULL,
	ss_quantity           integer,
	ss_wholesale_cost     decimal(7,2),
	ss_list_price         decimal(7,2),
	ss_sales_price        decimal(7,2),
	ss_ext_discount_amt   decimal(7,2),
	ss_ext_sales_price    decimal(7,2),
	ss_ext_wholesale_cost decimal(7,2),
	ss_ext_list_price     decimal(7,2),
	ss_ext_tax            decimal(7,2),
	ss_coupon_amt         decimal(7,2),
	ss_net_paid           decimal(7,2),
	ss_net_paid_inc_tax   decimal(7,2),
	ss_net_profit         decimal(7,2),
	PRIMARY KEY (ss_item_sk, ss_ticket_number)
);
CREATE INDEX ON store_sales (ss_ticket_number);
CREATE INDEX ON store_sales (ss_customer_sk);
ALTER TABLE store_sales REPLICA IDENTITY FULL;

CREATE TABLE store_returns (
	sr_returned_date_sk   integer,
	sr_return_time_sk     integer,
	sr_item_sk            integer NOT NULL,
	sr_customer_sk        integer,
	sr_cdemo_sk           integer,
	sr_hdemo_sk           integer,
	sr_addr_sk            integer,
	sr_store_sk           integer,
	sr_reason_sk          integer,
	sr_ticket_number      bigint NOT NULL,
	sr_return_quantity    integer,
	sr_return_amt         decimal(7,2),
	sr_return_tax         decimal(7,2),
	sr_return_amt_inc_tax decimal(7,2),
	sr_fee                decimal(7,2),
	sr_return_ship_cost   decimal(7,2),
	sr_refunded_cash      decimal(7,2),
	sr_reversed_charge    decimal(7,2),
	sr_store_credit       decimal(7,2),
	sr_net_loss           decimal(7,2),
	PRIMARY KEY (sr_item_sk, sr_ticket_number)
);
CREATE INDEX ON store_returns (sr_ticket_number);
ALTER TABLE store_returns REPLICA IDENTITY FULL;

CREATE TABLE inventory (
	inv_date_sk          integer NOT NULL,
	inv_item_sk          integer NOT NULL,
	inv_warehouse_sk     integer NOT NULL,
	inv_quantity_on_hand integer,
	PRIMARY KEY (inv_date_sk, inv_item_sk, inv_warehouse_sk)
) PARTITION BY RANGE (inv_date_sk);
CREATE INDEX ON inventory (inv_item_sk, inv_warehouse_sk, inv_date_sk);

-- what the questions ask, what the trucks answer, and what they keep for that
CREATE SCHEMA question;
CREATE SCHEMA answer;
CREATE SCHEMA kept;
