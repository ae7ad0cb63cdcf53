"""Methods: what happens to a source network once it has been drawn. Options of conf/method name them."""
