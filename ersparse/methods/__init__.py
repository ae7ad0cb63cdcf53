"""Methods: what happens to a source network once it is drawn. One file each; its option in conf/method names it."""
