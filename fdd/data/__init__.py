"""Registration of data sets, the dataset mapper and the shapes data set."""
