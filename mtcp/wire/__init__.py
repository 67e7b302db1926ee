"""Wire formats: the TCP option between client and servers, and the frames between servers."""
