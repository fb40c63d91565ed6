"""Which file name suffixes mean an image."""

READ = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
# Not read: such a file is a failure that is counted, rather than one that nobody sees.
NOT_READ = ("heic", "heif", "jxl", "jp2")
IMAGE_SUFFIXES = (*READ, *NOT_READ)
